"""The embedded demo: simulated card transactions through the real worker, with every record accounted for."""
