"""The element-wise family as data: what the fused CPU kernels can do to a slice, and the torch reference of each stage.

A chain of element-wise methods is `load, (stage)*, combination, round`. Methods describe themselves in these terms
(`Method.fused`), so one small set of loops in `kernels.py` serves them all; a law test holds both forms together.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eutectic.numerics.draw import Key
from eutectic.numerics.tensors import Tensor, torch

Numbers = tuple[float, ...]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Trim:
    """Sets to zero what is smaller than `cut[i]` in magnitude; NaN is kept, so that it is seen."""

    cut: Numbers


@dataclass(frozen=True)
class Drop:
    """Keeps each element with probability `density[i]`, times `factor[i]`; drawn from chain position `step`'s key."""

    density: Numbers
    factor: Numbers
    step: int


@dataclass(frozen=True)
class Scale:
    """Multiplies model i by `factor[i]`."""

    factor: Numbers


@dataclass(frozen=True, eq=False)
class RowScale:
    """Multiplies every model by a factor for each row of `width` elements; factors are of the whole tensor's rows."""

    factor: Floats
    width: int


@dataclass(frozen=True, eq=False)
class RowTrim:
    """Sets to zero what is smaller than `cut` in magnitude times its row's factor; NaN is kept, so that it is seen."""

    cut: float
    factor: Floats
    width: int


@dataclass(frozen=True)
class Clip:
    """Cuts model i to magnitudes up to `limit[i]`; NaN stays."""

    limit: Numbers


@dataclass(frozen=True)
class Band:
    """Sets to zero what is smaller than `low[i]` or larger than `high[i]` in magnitude; NaN is kept."""

    low: Numbers
    high: Numbers


@dataclass(frozen=True)
class Select:
    """Sets to zero, in all models, each element whose `spread` over the models is smaller than `cut`."""

    cut: float


@dataclass(frozen=True)
class RankedDrop:
    """Keeps each element with a probability that rises with the rank of its magnitude in its row.

    From the smallest to the largest it goes evenly from `density[i] - epsilon[i]` to `density[i] + epsilon[i]`; what is
    kept is divided by its own probability if `inverse`. A density of 0 keeps nothing, of 1 everything as it is. Of
    equal magnitudes the later one ranks higher. Drawn from chain position `step`'s key.
    """

    density: Numbers
    epsilon: Numbers
    inverse: bool
    step: int

    def chances(self, width: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Returns, (n, width) by rank: below which 32-bit draw an element is kept, and its factor then."""
        slope = 2 * np.arange(width) / (width - 1) - 1 if width > 1 else np.zeros(width)
        pairs = zip(map(_written, self.density), map(_written, self.epsilon), strict=True)
        chance = np.stack([d + e * slope if 0 < d < 1 else np.full(width, d) for d, e in pairs])
        factor = 1 / np.where(chance > 0, chance, 1.0) if self.inverse else np.ones_like(chance)
        return np.rint(chance * 2.0**32).astype(np.int64), factor


@dataclass(frozen=True)
class RankedBand:
    """Keeps, in each row, the magnitudes whose ranks `band` gives; of equal ones the later is the larger."""

    kept: Numbers
    removed: Numbers
    first: Literal["removed", "kept"] = "removed"
    step: int = 0

    def edges(self, width: int) -> NDArray[np.int64]:
        """Returns the ranks start..stop that are kept, (n, 2)."""
        pairs = zip(map(_written, self.kept), map(_written, self.removed), strict=True)
        return np.array([band(width, *shares, self.first) for shares in pairs], np.int64)

    def chances(self, width: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Returns, (n, width) by rank: below which 32-bit draw an element is kept (all or none), and its factor, 1."""
        rank = np.arange(width)
        inside = np.stack([(rank >= start) & (rank < stop) for start, stop in self.edges(width).tolist()])
        return np.where(inside, 2**32, 0).astype(np.int64), np.ones(inside.shape)


def _written(share: float) -> float:
    """Returns a share as it is written with the digits that float32 has: it reaches torch in float32, loops in full."""
    return float(str(np.float32(share)))


def band(total: int, kept: float, removed: float, first: Literal["removed", "kept"]) -> tuple[int, int]:
    """Returns the ranks (from 0, the smallest) start..stop of what stays when the largest of `total` go too.

    The int(total * removed) largest go, and the int(total * kept) largest of the rest stay. Where that is more than
    there are, `first` says which share is honoured.
    """
    size, stop = int(total * kept), total - int(total * removed)
    stop = max(stop, size) if first == "kept" else stop
    return max(0, stop - size), stop


#: Stages that must see whole rows: what they do to an element depends on its rank there.
Ranked = RankedDrop | RankedBand
Stage = Trim | Drop | Scale | Clip | RowScale | RowTrim | Band | Select | Ranked


@dataclass(frozen=True)
class Marks:
    """Which elements of the merged model belong to each model: a bit for each element and model.

    Attributes:
        where: `agrees`: the model's delta has the sign of the average, which is `unified`. `near`: the merged model is
            near the model, |base - model| > share[i] * |base + average - model|, with the models as the transforms
            left them, before the combination's own stages.
        share: one number per model, for `near`.
        least: sets the average to 0 where fewer models are marked; what is not finite stays, so that it is seen.
    """

    where: Literal["agrees", "near"]
    share: Numbers = ()
    least: int = 0


#: How models are averaged, see `Combination.average`.
Average = Literal["sum", "agree_sum", "agree_count", "agree_weight", "agree_max", "unified", "active", "largest"]


@dataclass(frozen=True)
class Combination:
    """`result = anchor * base + scale * average(weight[i] * model[i])`.

    Attributes:
        weight: one number per model.
        of: what is averaged: the models' `weights`, or their `deltas` (differences from the base, after the stages).
        anchor: the coefficient of the base; needs a base unless it is 0.
        scale: multiplies the average.
        average: `sum`; or, with an elected sign per element, over those that agree with it: `agree_sum`, `agree_count`
            (divided by how many agree), `agree_weight` (divided by the sum of their weights, 1 where that is 0),
            `agree_max` (the largest magnitude). Without an elected sign: `unified`, the largest magnitude on the side
            of the plain sum's sign (minus where that is zero), without weights; `active`, where several models'
            deltas are not zero, their mean, and where one is, weight[i] times it; `largest`, the one of largest
            magnitude, the later of equals.
        tie: what an exactly zero vote elects: 0 nobody, +1 or -1 that sign.
        stages: applied to the deltas first, after those of the transforms.
        marks: bits to be made beside the result, before `scale`: the method's extra of that type, if it has one.
        numbers: one number per model for each of the method's extras that are not element-wise, in their order.
        vote: the sign is elected by the `weighted` deltas, or (with `agree_weight`) by the `plain` ones.
        floor: the least that `agree_weight` divides by; 0 divides by 1 where the weights add up to 0.
    """

    weight: Numbers
    of: Literal["weights", "deltas"]
    anchor: float = 0.0
    scale: float = 1.0
    average: Average = "sum"
    tie: int = 0
    stages: tuple[Stage, ...] = ()
    marks: Marks | None = None
    numbers: tuple[Numbers, ...] = ()
    vote: Literal["weighted", "plain"] = "weighted"
    floor: float = 0.0


Fused = tuple[Stage, ...] | Combination


def column(numbers: Numbers, like: Tensor) -> Tensor:
    """Shapes n numbers to (n, 1, ..., 1) against `like` (n, *shape), in its dtype and on its device."""
    return torch.tensor(numbers, dtype=like.dtype, device=like.device).reshape(-1, *[1] * (like.dim() - 1))


def apply(stage: Stage, deltas: Tensor, key: Key) -> Tensor:
    """The torch reference of one stage: (n, *shape) -> (n, *shape); whole rows if it is `Ranked`."""
    if isinstance(stage, Trim):
        return deltas * (deltas.abs() >= column(stage.cut, deltas))  # a NaN times 0 is a NaN
    if isinstance(stage, Band):
        size = deltas.abs()
        return deltas * ((size >= column(stage.low, deltas)) & (size <= column(stage.high, deltas)))
    if isinstance(stage, Select):
        return deltas * (spread(deltas) >= stage.cut)
    if isinstance(stage, Drop):
        return (deltas * column(stage.factor, deltas)).where(key.at(stage.step).keep(stage.density, deltas), 0.0)
    if isinstance(stage, Clip):
        limit = column(stage.limit, deltas)
        return deltas.clamp(-limit, limit)
    if isinstance(stage, RowScale):
        return deltas * row_factors(stage.factor, stage.width, deltas, key.start)
    if isinstance(stage, RowTrim):
        weighed = deltas.abs() * row_factors(stage.factor, stage.width, deltas, key.start)
        return deltas * (weighed >= stage.cut)  # a NaN times 0 is a NaN
    if isinstance(stage, Ranked):
        return _by_rank(stage, deltas, key)
    return deltas * column(stage.factor, deltas)


def at_step(stage: Stage, step: int) -> Stage:
    """Returns the stage drawing from another chain position's key."""
    return replace(stage, step=step) if isinstance(stage, Drop | RankedDrop | RankedBand) else stage


def spread(deltas: Tensor) -> Tensor:
    """Returns the models' summed squared distance from their mean, n times a variance: (n, *shape) -> (*shape)."""
    mean, total = deltas[0], torch.zeros_like(deltas[0])
    for at, row in enumerate(deltas[1:], start=2):
        apart = row - mean
        mean = mean + apart / at
        total = total + apart * (row - mean)
    return total


def _by_rank(stage: Ranked, deltas: Tensor, key: Key) -> Tensor:
    rows = deltas.reshape(*deltas.shape, *[1] * (2 - deltas.dim()))  # 0-d tensors are one row of one
    order = rows.abs().argsort(dim=-1, stable=True)
    place = torch.arange(rows.shape[-1], device=rows.device).expand(rows.shape)
    ranks = torch.empty_like(order).scatter_(-1, order, place)
    limits, factors = stage.chances(rows.shape[-1])
    draws = key.at(stage.step).draws(len(rows), rows)
    marks = []
    for drawn, rank, limit, factor in zip(draws, ranks, limits, factors, strict=True):
        table = torch.from_numpy(factor).to(rows)
        below = torch.from_numpy(limit).to(rows.device)
        marks.append(table[rank].where(drawn < below[rank], 0.0))
    return deltas * torch.stack(marks).reshape(deltas.shape)


def row_factors(factor: Floats, width: int, like: Tensor, start: int) -> Tensor:
    """Returns the factor of each element's row, for elements `start, ...` of a tensor: (*shape) for (n, *shape)."""
    place = torch.arange(start, start + like[0].numel(), device=like.device) // max(1, width)
    return torch.from_numpy(factor).to(like)[place].reshape(like.shape[1:])
