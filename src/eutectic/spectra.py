"""Ranks that spectra gave, by a digest of what they were computed from: planning twice computes them once."""

import json
import os
from collections.abc import Mapping
from pathlib import Path


def _path(digest: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "eutectic" / "ranks" / f"{digest}.json"


def record(digest: str, ranks: Mapping[str, int]) -> None:
    """Keeps the rank of every tensor; a cache that cannot be written is no error."""
    path = _path(digest)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(dict(ranks)))
        beside.replace(path)
    except OSError:
        pass


def known(digest: str, names: frozenset[str]) -> dict[str, int] | None:
    """Returns the ranks of exactly these tensors, or None when they are not known."""
    try:
        found = json.loads(_path(digest).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or set(found) != names:
        return None
    return found if all(type(rank) is int and rank > 0 for rank in found.values()) else None
