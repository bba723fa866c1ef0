"""Results of calibration on disk, and statistics of one's own modules and batches."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eutectic.calibrate.own import Statistics, measure
from eutectic.errors import CalibrationError
from eutectic.numerics.tensors import torch
from eutectic.recipe.chain import asked
from eutectic.stats.store import Entry, Store


def default_store() -> Path:
    """Returns where results are kept when nobody says: in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "eutectic" / "statistics"


def open_store(folder: str | os.PathLike[str] | None) -> Store:
    """Returns the store in a folder, by default the user's."""
    return Store(default_store() if folder is None else Path(os.fspath(folder)))


def stored(folder: str | os.PathLike[str] | None = None) -> list[Entry]:
    """Returns the results that are stored."""
    return open_store(folder).entries()


def delete(digest: str, folder: str | os.PathLike[str] | None = None) -> int:
    """Deletes the stored results whose digest begins so, and returns their bytes.

    Raises:
        CalibrationError: when there is none, or there are several.
    """
    return open_store(folder).delete(digest)


def statistics(
    module: "torch.nn.Module",
    batches: Iterable[object],
    method: Any,
    *,
    include_padding: bool = False,
    seed: int = 0,
    store: str | os.PathLike[str] | None = None,
) -> Statistics:
    """Takes what a method asks for of one's own module and batches; `plan` takes the results, one for each model.

    Args:
        module: with its weights; its parameters are called as in the model's files.
        batches: each a tensor, or a mapping of the module's keyword arguments; `attention_mask` says what is padding,
            `labels` are labels.
        method: as in a recipe: `"regmean"`, or `{"fisher": {"kind": "exact"}}`.
        include_padding: padded tokens count.
        seed: of drawn labels.
        store: the folder results are kept in; the user's cache folder by default.

    Raises:
        CalibrationError: when there are no batches, labels are missing, or activations or gradients are not finite.
        RecipeError: when there is no such method.
    """
    wanted = asked(method)
    if not wanted:
        raise CalibrationError(f"expected a method that looks at data, found {method}")
    return measure(module, batches, wanted, open_store(store), include_padding=include_padding, seed=seed)


__all__ = ["Entry", "Statistics", "default_store", "delete", "open_store", "statistics", "stored"]
