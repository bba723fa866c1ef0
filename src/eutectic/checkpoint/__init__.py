"""Bytes on disk to named tensors and back; knows nothing of models."""
