"""What a GPU is worth to the worker: calls of the model, and the whole pipeline, beside ONNX Runtime alone."""
