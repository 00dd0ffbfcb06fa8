"""The edges: Kafka, ONNX Runtime, files, HTTP. Thin, without policy, and independent of each other."""
