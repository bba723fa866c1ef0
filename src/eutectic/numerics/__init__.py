"""Arithmetic: fused loops, draws, precision; knows no files and no models."""
