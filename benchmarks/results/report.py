"""Writes `docs/results.md`."""

from pathlib import Path


def write(cache: Path, out: Path) -> None:
    """Writes the page."""
    raise NotImplementedError
