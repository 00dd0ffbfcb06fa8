"""The proof on real data: models of a published benchmark, scored by the worker over a real Kafka.

    python -m benchmarks.evaluate --data FOLDER [--write]

``docs/evaluation.md`` explains the protocol and holds the resulting table.
"""
