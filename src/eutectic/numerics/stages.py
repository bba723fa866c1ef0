"""The element-wise family as data: what the fused CPU kernels can do to a slice, and the torch reference of each stage.

A chain of element-wise methods is `load, (stage)*, combination, round`. Methods describe themselves in these terms
(`Method.fused`), so one small set of loops in `kernels.py` serves them all; a law test holds both forms together.
"""

from dataclasses import dataclass
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


Stage = Trim | Drop | Scale | Clip | RowScale | RowTrim


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
            `agree_max` (the largest magnitude). `unified` is the largest magnitude on the side of the plain sum's sign,
            minus where that is zero, and takes no weights.
        tie: what an exactly zero vote elects: 0 nobody, +1 or -1 that sign.
        stages: applied to the deltas first, after those of the transforms.
        marks: bits to be made beside the result, before `scale`: the method's extra of that type, if it has one.
        numbers: one number per model for each of the method's extras that are not element-wise, in their order.
    """

    weight: Numbers
    of: Literal["weights", "deltas"]
    anchor: float = 0.0
    scale: float = 1.0
    average: Literal["sum", "agree_sum", "agree_count", "agree_weight", "agree_max", "unified"] = "sum"
    tie: int = 0
    stages: tuple[Stage, ...] = ()
    marks: Marks | None = None
    numbers: tuple[Numbers, ...] = ()


Fused = tuple[Stage, ...] | Combination


def column(numbers: Numbers, like: Tensor) -> Tensor:
    """Shapes n numbers to (n, 1, ..., 1) against `like` (n, *shape), in its dtype and on its device."""
    return torch.tensor(numbers, dtype=like.dtype, device=like.device).reshape(-1, *[1] * (like.dim() - 1))


def apply(stage: Stage, deltas: Tensor, key: Key) -> Tensor:
    """The torch reference of one stage: (n, *shape) -> (n, *shape)."""
    if isinstance(stage, Trim):
        return deltas * (deltas.abs() >= column(stage.cut, deltas))  # a NaN times 0 is a NaN
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
    return deltas * column(stage.factor, deltas)


def row_factors(factor: Floats, width: int, like: Tensor, start: int) -> Tensor:
    """Returns the factor of each element's row, for elements `start, ...` of a tensor: (*shape) for (n, *shape)."""
    place = torch.arange(start, start + like[0].numel(), device=like.device) // max(1, width)
    return torch.from_numpy(factor).to(like)[place].reshape(like.shape[1:])
