"""The one place where golden cases meet eutectic: a recipe as data in, an output folder out."""

from pathlib import Path
from typing import Any

import eutectic


def merge(recipe: dict[str, Any], out: Path) -> Path:
    """Plans and runs a recipe and returns its output folder."""
    eutectic.run(eutectic.plan(recipe, memory="1 GiB"), out=out)
    return out
