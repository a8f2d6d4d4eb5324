"""Exports of trained students: TorchScript, ONNX, MLflow (``pdetr3d export``)."""
