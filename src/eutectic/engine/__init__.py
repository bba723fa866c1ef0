"""Carries out plans; knows no method by name."""
