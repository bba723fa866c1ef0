"""Tokens by name: tokenizers read, joined and written, and embedding rows in the order of another vocabulary."""
