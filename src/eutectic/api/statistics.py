"""Results of calibration on disk, and statistics of one's own modules and batches."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eutectic.calibrate.own import Statistics, measure
from eutectic.diagnose.anchors import draw_lines, spectrum
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


def draw_spectra(digest: str, out: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None) -> list[str]:
    """Draws the spectra of stored anchors, where they started and where they are, as an SVG picture.

    Returns what is drawn, one line a block.

    Raises:
        CalibrationError: when the digest names no anchors, or several results.
    """
    store = open_store(folder)
    found = [each for each in store.entries() if each.digest.startswith(digest)]
    if len(found) != 1 or found[0].about.get("statistic") != "anchors":
        raise CalibrationError(f"{digest}: expected the digest of stored anchors, found {len(found)} results of others")
    results = store.open(found[0].digest)
    lines = {}
    for name in results.names():
        block, _, what = name.rpartition(".")
        if what in ("anchors", "start"):
            called = block if what == "anchors" else f"{block}, start"
            lines[called] = spectrum(results.measured(name).load()).tolist()
    results.close()
    Path(os.fspath(out)).write_text(draw_lines(lines, f"anchors of {found[0].about['model']}", "direction"))
    return list(lines)


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


__all__ = ["Entry", "Statistics", "default_store", "delete", "draw_spectra", "open_store", "statistics", "stored"]
