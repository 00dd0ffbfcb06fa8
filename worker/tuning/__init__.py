"""Search for better values of the keys that trade processor time for latency, by runs of the real worker."""
