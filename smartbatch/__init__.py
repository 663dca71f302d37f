"""SmartBatch: an inference server for PyTorch models."""
