"""Results of calibration on disk, and statistics of one's own modules and batches."""

import os
from pathlib import Path

from eutectic.stats.store import Entry, Store


def default_store() -> Path:
    """Returns where results are kept when nobody says: in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "eutectic" / "statistics"


def _store(folder: str | os.PathLike[str] | None) -> Store:
    return Store(default_store() if folder is None else Path(os.fspath(folder)))


def stored(folder: str | os.PathLike[str] | None = None) -> list[Entry]:
    """Returns the results that are stored."""
    return _store(folder).entries()


def delete(digest: str, folder: str | os.PathLike[str] | None = None) -> int:
    """Deletes the stored results whose digest begins so, and returns their bytes.

    Raises:
        CalibrationError: when there is none, or there are several.
    """
    return _store(folder).delete(digest)


__all__ = ["Entry", "default_store", "delete", "stored"]
