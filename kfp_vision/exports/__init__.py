"""Exports a model for other runtimes, LiteRT, ONNX Runtime and OpenVINO, and compares each file with the model."""
