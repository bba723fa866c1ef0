"""Verbs for adapters: recipes that extract, merge or fold them, and a look at one."""

import os
from collections.abc import Sequence
from typing import Any

from eutectic.api.recipes import Model, merge
from eutectic.checkpoint.source import Checkpoint
from eutectic.diagnose.adapter import AdapterInspection, ModuleUpdate, inspect_updates
from eutectic.errors import RecipeError
from eutectic.plan.inputs import open_input
from eutectic.recipe.model import Recipe


def extract_adapter(
    model: Model,
    *,
    base: Checkpoint | str | os.PathLike[str],
    rank: int | None = None,
    error: float | None = None,
    rest: str = "save",
    dtype: str = "as-base",
) -> Recipe:
    """Makes a recipe for the adapter nearest to what a fine-tuned model changed in its base. Nothing is read.

    Args:
        model: the fine-tuned model.
        base: what it was trained from.
        rank: the most that an update may have.
        error: instead or besides, the share of each update's norm that may be lost.
        rest: what becomes of changed tensors that factors cannot hold, such as norms: `save` them in full, `drop` or
            `error`.
        dtype: the type of the factors; the base's by default.

    Raises:
        RecipeError: when neither rank nor error is given, or one is out of bounds.
    """
    if rank is None and error is None:
        raise RecipeError("expected a rank or an error to extract an adapter to, found neither")
    output = _output(rank, error, dtype) | {"rest": rest}
    return merge([model], method="task_arithmetic", base=base, output=output)


def merge_adapters(
    adapters: Sequence[Model],
    *,
    weights: Sequence[float] | None = None,
    method: Any = None,
    base: Checkpoint | str | os.PathLike[str] | None = None,
    rank: int | None = None,
    error: float | None = None,
    rest: str = "error",
    dtype: str = "as-base",
    seed: int = 0,
) -> Recipe:
    """Makes a recipe that merges adapters into one adapter. Nothing is read.

    Without a rank or an error the weighted sum is exact, and its rank is the sum of the adapters' ranks.

    Args:
        adapters: the adapters.
        weights: how much of each update; equal shares that add up to 1 by default.
        method: another chain, as in a recipe; by default the weighted sum.
        base: the base, where an adapter's update depends on it.
        rank: the most that an update may have.
        error: the share of each update's norm that may be lost.
        rest: what becomes of tensors that adapters store in full: `error`, `save` or `drop`.
        dtype: the type of the factors; the first adapter's by default.
        seed: of random methods.

    Raises:
        RecipeError: when weights and adapters differ in number, or the method does not fit.
    """
    chain = "task_arithmetic" if method is None else method
    output = _output(rank, error, dtype) | ({} if rest == "error" else {"rest": rest})
    return merge(_weighted(adapters, weights, method is None), method=chain, base=base, seed=seed, output=output)


def fold_adapters(
    base: Checkpoint | str | os.PathLike[str],
    adapters: Sequence[Model],
    *,
    weights: Sequence[float] | None = None,
    dtype: str = "as-base",
) -> Recipe:
    """Makes a recipe that adds adapters to their base: touched tensors are rewritten, the others copied.

    Args:
        base: the base.
        adapters: one or more.
        weights: how much of each update; 1 by default.
        dtype: the type of the model; the base's by default.

    Raises:
        RecipeError: when weights and adapters differ in number.
    """
    each = [1.0] * len(adapters) if weights is None else weights
    return merge(_weighted(adapters, each, True), method="task_arithmetic", base=base, output={"dtype": dtype})


def inspect_adapter(
    reference: str | os.PathLike[str], *, base: Checkpoint | None = None, offline: bool = False
) -> AdapterInspection:
    """Looks at an adapter: rank, scale and norm of every module's update. Reads the factors.

    Args:
        reference: a folder, a file of kohya's, or a hub adapter.
        base: its base, where its updates or its names depend on it.
        offline: do not download.

    Raises:
        CheckpointError: when it is no adapter, or broken.
        MismatchError: when it does not fit the base.
    """
    opened = open_input(os.fspath(reference), base=base, offline=offline)
    try:
        return inspect_updates(opened)
    finally:
        opened.source.close()


def _output(rank: int | None, error: float | None, dtype: str) -> dict[str, Any]:
    asked = {"rank": rank, "error": error}
    return {"form": "adapter", "dtype": dtype} | {key: value for key, value in asked.items() if value is not None}


def _weighted(adapters: Sequence[Model], weights: Sequence[float] | None, plain: bool) -> list[Any]:
    if weights is None:
        if not plain:
            return list(adapters)
        weights = [1 / max(1, len(adapters))] * len(adapters)
    if len(weights) != len(adapters):
        raise RecipeError(f"expected one weight an adapter, found {len(weights)} for {len(adapters)}")
    return [{"model": _named(each), "weight": weight} for each, weight in zip(adapters, weights, strict=True)]


def _named(model: Model) -> Any:
    return (
        model if isinstance(model, Checkpoint | str) else os.fspath(model) if isinstance(model, os.PathLike) else model
    )


__all__ = [
    "AdapterInspection",
    "ModuleUpdate",
    "extract_adapter",
    "fold_adapters",
    "inspect_adapter",
    "merge_adapters",
]
