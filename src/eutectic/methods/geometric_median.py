"""Geometric median: the point with the least sum of distances to the models, which one bad model cannot drag away.

Source: Pillutla et al., Robust Aggregation for Federated Learning, 2019, arXiv:1912.13445, Algorithm 2 (smoothed
Weiszfeld): from the mean, weigh each model by w_i / max(smoothing, distance) and average again.
Every point is an average of the models, so the iteration runs on their pairwise distances in float64, and the tensors
are read once more to add them up.
Departs: it runs until nothing moves any more (the paper stops after a few rounds, each of which costs it a round of
communication). `scope: tensor` takes a median of each tensor, where the paper's is of the whole model.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np

from eutectic.methods.declare import Bounds, Laws, Locality, Needs, NonNegative, Paper, combine
from eutectic.methods.site import Site, divisor, weighted_sum
from eutectic.numerics.stages import Combination, Floats, Numbers
from eutectic.numerics.tensors import Tensor
from eutectic.stats.fold import Scope, Statistic
from eutectic.stats.weights import Gram


def coefficients(gram: Floats, weight: Floats, smoothing: float, max_iter: int) -> Numbers:
    """Returns each model's share, from the (n, n) inner products; the shares add up to 1."""
    share = weight / weight.sum()
    if not np.isfinite(gram).all():  # no distances; the mean leaves the finite elements usable
        return tuple(share.tolist())
    energy = np.diagonal(gram)
    squares = np.maximum(energy[:, None] + energy[None] - 2 * gram, 0.0)  # exactly 0 between equal models
    for _ in range(max_iter):
        apart = squares @ share
        distance = np.sqrt(np.maximum(apart - float(share @ apart) / 2, 0.0))
        pull = weight / np.maximum(distance, max(smoothing, 1e-300))
        new = pull / pull.sum()
        moved = float(np.abs(new - share).max())
        share = new
        if moved <= 1e-12:
            break
    return tuple(share.tolist())


def _coefficients(site: Site, weight: Numbers, smoothing: float, max_iter: int) -> Numbers:
    divisor(weight, site.name)
    gram = site.fold("gram")[-site.n :, -site.n :]  # a base that is there for an adapter's sake comes first
    return coefficients(gram, np.array(weight), smoothing, max_iter)


def _folds(*, scope: str, **_: object) -> Mapping[str, Statistic]:
    return {"gram": Gram(Scope.MODEL if scope == "model" else Scope.TENSOR, "weights")}


def _fused(site: Site, *, weight: Numbers, smoothing: float, max_iter: int, **_: object) -> Combination:
    return Combination(_coefficients(site, weight, smoothing, max_iter), "weights")


@combine(
    Paper("arXiv:1912.13445", "Robust Aggregation for Federated Learning", 2019),
    needs=Needs(locality=Locality.ELEMENT, scratch=1.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=True, shift=True, scale=False),
    folds=_folds,
    fused=_fused,
)
def geometric_median(
    site: Site,
    *,
    weight: Annotated[Tensor, Bounds(0.0, None, per_model=True)] = 1.0,  # type: ignore[assignment]
    scope: Literal["model", "tensor"] = "model",
    smoothing: NonNegative = 1e-6,
    max_iter: int = 1000,
) -> Tensor:
    """Takes the point nearest to all models, by the sum of distances: (n, *shape) -> (*shape).

    Args:
        weight: how much each model's distance counts.
        scope: one median of the whole model (the paper), or one per tensor.
        smoothing: distances below this count as this, so that a median on a model stays finite (nu).
        max_iter: most steps; it stops before where nothing moves.
    """
    numbers = _coefficients(site, tuple(weight.flatten().tolist()), smoothing, max_iter)
    return weighted_sum(site.column(numbers), site.tensors)
