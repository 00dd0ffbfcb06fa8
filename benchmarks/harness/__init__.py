"""The benchmark's machinery: broker, processes, load, figures, page. ``python -m benchmarks --help`` is the command."""
