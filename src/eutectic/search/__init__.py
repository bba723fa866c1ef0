"""Searches: loops that choose the numbers of a recipe by a score. They know nothing of models."""
