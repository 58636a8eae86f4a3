"""Fitted detectors as files: model folders and ONNX."""
