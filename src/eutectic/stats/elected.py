"""How much of what the models elect together each of them agrees with: the sums behind EMR's rescalers."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from eutectic.numerics import kernels
from eutectic.numerics.kernels import GRAIN
from eutectic.numerics.stages import Floats
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import OfWeights, Part, Seen

#: By tensor: how many elements it has, and sums per grain, (grains, 2, n).
Sums = dict[str, tuple[int, Floats]]


@dataclass(frozen=True)
class Elected(OfWeights):
    """Magnitudes over a scope, (2, n) float64: of each model's deltas, and of the elected deltas where it agrees.

    The elected delta of an element is the largest of the sign that their sum has, minus where that is zero.

    Attributes:
        scope: over what.
        each: `mean` adds up the tensors' means, whatever their sizes; `sum` their sums.
    """

    each: Literal["mean", "sum"] = "mean"

    def init(self, parts: list[Part], n: int, double: bool) -> Sums:
        return {part.name: (part.numel, np.zeros((-(-part.numel // GRAIN), 2, n))) for part in parts}

    def update(self, state: Sums, seen: Seen) -> None:
        found = _reference(seen.deltas) if seen.rows is None else kernels.elected(seen.rows)
        first = seen.start // GRAIN
        state[seen.name][1][first : first + len(found)] = found

    def combine(self, left: Sums, right: Sums) -> Sums:
        for name, (_, grains) in right.items():
            left[name][1][:] += grains
        return left

    def finish(self, state: Sums) -> Floats:
        totals = [_exact(grains) / (numel if self.each == "mean" else 1) for numel, grains in _sorted(state) if numel]
        n = next(iter(state.values()))[1].shape[2]
        return _exact(np.array(totals).reshape(-1, 2, n))

    def nbytes(self, parts: list[Part], n: int) -> int:
        return sum(-(-part.numel // GRAIN) for part in parts) * 2 * n * 8


def _sorted(state: Sums) -> list[tuple[int, Floats]]:
    return [state[name] for name in sorted(state)]


def _exact(numbers: Floats) -> Floats:
    """Adds (k, 2, n) over the first axis with one rounding per number."""
    flat = numbers.reshape(len(numbers), math.prod(numbers.shape[1:]))
    sums = [math.fsum(column) if np.isfinite(column).all() else float(column.sum()) for column in flat.T]
    return np.array(sums).reshape(numbers.shape[1:])


def _reference(deltas: Tensor) -> Floats:
    """The torch reference of `kernels.elected`, of (n, elements)."""
    unified = elect(deltas)
    agree = agreeing(deltas, unified)
    both = torch.stack([deltas, unified.expand_as(deltas).where(agree, 0.0)]).double().abs()  # (2, n, elements)
    parts = torch.split(both, GRAIN, dim=2)
    return torch.stack([part.sum(2) for part in parts]).numpy(force=True)


def elect(deltas: Tensor) -> Tensor:
    """Returns the largest delta of the sign that their sum has, minus where that is zero: (n, ...) -> (...).

    0 where no delta has that sign; NaN where the sum is.
    """
    vote = deltas[0]
    for row in deltas[1:]:
        vote = vote + row
    largest = torch.where(vote > 0, deltas.clamp(min=0).amax(0), deltas.clamp(max=0).amin(0))
    return largest.where(largest != 0, 0.0).where(~vote.isnan(), vote)  # no negative zero


def agreeing(deltas: Tensor, unified: Tensor) -> Tensor:
    """Returns where each model's delta has the sign of the unified one and neither is 0: (n, ...) bool."""
    return ((deltas > 0) & (unified > 0)) | ((deltas < 0) & (unified < 0))
