"""Headrace: a streaming real-time inference worker, Kafka in, micro-batches through ONNX Runtime, Kafka out."""

__version__ = "0.1.0"
