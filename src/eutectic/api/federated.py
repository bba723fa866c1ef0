"""What a server of federated fine-tuning does with its clients' adapters: uploads and sample counts in, recipes out."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from eutectic.api.adapters import merge_adapters
from eutectic.api.recipes import Model, merge
from eutectic.checkpoint.source import Checkpoint
from eutectic.errors import RecipeError, nearest
from eutectic.recipe.model import Recipe

Scheme = Literal["flora", "fedavg", "fedex", "robustmerge"]


@dataclass(frozen=True)
class Aggregation:
    """One round's result, as recipes to plan and run.

    Attributes:
        adapter: makes the global adapter.
        base: makes the base that belongs to it; None where the base stays as it is.
    """

    adapter: Recipe
    base: Recipe | None = None


def aggregate(
    uploads: Sequence[Model],
    counts: Sequence[float],
    scheme: Scheme = "flora",
    *,
    base: Checkpoint | str | os.PathLike[str] | None = None,
    rank: int | None = None,
) -> Aggregation:
    """Makes the recipes that aggregate clients' adapters, client k with the share counts[k] / sum(counts).

    `flora` (arXiv:2409.05976) is the exact average of the updates, its rank the sum of the clients'; where that exceeds
    a matrix's sides, the plan asks for `rank`. `fedavg` averages
    A and B apart. `fedex` (arXiv:2410.09432) does so too, and adds to the base what this misses, so that base and
    adapter together are exact. `robustmerge` is that method, with weights whose mean is 1. Nothing is read.

    Args:
        uploads: the clients' adapters, of any ranks.
        counts: their numbers of samples, in the same order; at least 0.
        scheme: how.
        base: the model that all clients trained; `fedex` changes it.
        rank: the most that the global adapter may have; what the cut loses is in the receipt.

    Raises:
        RecipeError: when counts do not fit the uploads, the scheme is unknown, or `fedex` has no base or is to be cut.
    """
    if scheme not in get_args(Scheme):
        hint = nearest(str(scheme), get_args(Scheme))
        raise RecipeError(f"scheme is one of {', '.join(get_args(Scheme))}; found {scheme!r}{hint}")
    if not uploads or len(counts) != len(uploads):
        raise RecipeError(f"expected one sample count an upload, found {len(counts)} for {len(uploads)}")
    total = math.fsum(counts)
    if not (all(count >= 0 for count in counts) and 0 < total < math.inf):
        raise RecipeError(f"sample counts are at least 0 and not all 0; found {list(counts)}")
    shares = [count / total for count in counts]
    if scheme == "flora":
        return Aggregation(merge_adapters(uploads, weights=shares, base=base, rank=rank))
    if scheme == "robustmerge":
        weights = [share * len(shares) for share in shares]
        return Aggregation(merge_adapters(uploads, weights=weights, method="robustmerge", base=base, rank=rank))
    adapter = merge_adapters(uploads, weights=shares, method="fedavg", base=base, rank=rank)
    if scheme == "fedavg":
        return Aggregation(adapter)
    if base is None or rank is not None:
        raise RecipeError("fedex adds to the base what its adapter misses: give base, and no rank")
    missing: list[Model] = [{"model": upload, "weight": share} for upload, share in zip(uploads, shares, strict=True)]
    missing.append({"recipe": adapter, "weight": -1.0})
    return Aggregation(adapter, merge(missing, method="task_arithmetic", base=base))


__all__ = ["Aggregation", "aggregate"]
