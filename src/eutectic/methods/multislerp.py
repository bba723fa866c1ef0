"""Multi-SLERP: the weighted mean direction of any number of models, or task vectors, at their mean length.

Source: arcee-ai/mergekit 0.1.5, `multislerp`; there is no paper. With unit vectors u_i = x_i / (|x_i| + eps) and
mu = sum(w_i u_i), mergekit moves from mu / |mu| along the mean of the u_i's tangents there. That mean is zero, because
mu / |mu| is the direction of the very sum it is taken of; what is left is cos(eps) * mu / |mu| * sum(w_i |x_i|).
Departs: `of: deltas` works on task vectors around the base, which mergekit does whenever there is one. Where |mu| is
below eps (opposite models, or none that changed) the result is the weighted sum for any number of models; mergekit has
that for two, and an error for more. Weights that add up to 0 are refused when they would divide.
"""

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from eutectic.methods.declare import Laws, Locality, Needs, NonNegative, Paper, PerModel, combine
from eutectic.methods.site import Site, divisor, weighted_sum
from eutectic.numerics.stages import Combination, Floats, Numbers
from eutectic.numerics.tensors import Tensor
from eutectic.stats.fold import Scope, Statistic
from eutectic.stats.weights import Gram


def coefficients(gram: Floats, weight: Floats, eps: float) -> Numbers:
    """Returns what multiplies each tensor, from the (n, n) inner products."""
    if len(gram) == 1:
        return (1.0,)
    if not np.isfinite(gram).all():  # no directions; the weighted sum leaves the finite elements usable
        return tuple(weight.tolist())
    norms = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    sizes = norms + eps
    unit = np.where(sizes > 0, 1 / np.where(sizes > 0, sizes, 1.0), 0.0)
    mean = weight * unit
    length = math.sqrt(max(float(mean @ gram @ mean), 0.0))
    if length < max(eps, 1e-12):
        return tuple(weight.tolist())
    return tuple((mean / length * float(weight @ norms) * math.cos(eps)).tolist())


def _coefficients(site: Site, weight: Numbers, normalize: bool, eps: float) -> Numbers:
    total = divisor(weight, site.name) if normalize else 1.0
    gram = site.fold("gram")[-site.n :, -site.n :]  # a base that is there for an adapter's sake comes first
    return coefficients(gram, np.array(weight) / total, eps)


def _folds(*, of: Literal["weights", "deltas"], **_: object) -> Mapping[str, Statistic]:
    return {"gram": Gram(Scope.TENSOR, of)}


def _fused(
    site: Site, *, weight: Numbers, of: Literal["weights", "deltas"], normalize: bool, eps: float
) -> Combination:
    return Combination(_coefficients(site, weight, normalize, eps), of, anchor=1.0 if of == "deltas" else 0.0)


def _vary(*, of: str, **_: object) -> Needs:
    return Needs(base=of == "deltas", locality=Locality.ELEMENT, scratch=1.0)


@combine(
    Paper("github:arcee-ai/mergekit", "mergekit Multi-SLERP", 2025),
    needs=Needs(locality=Locality.ELEMENT, scratch=1.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=True, shift=False, scale=False),
    folds=_folds,
    fused=_fused,
    vary=_vary,
)
def multislerp(
    site: Site,
    *,
    weight: PerModel = 1.0,  # type: ignore[assignment]
    of: Literal["weights", "deltas"] = "weights",
    normalize: bool = True,
    eps: NonNegative = 1e-8,
) -> Tensor:
    """Averages the models' directions, and their lengths apart: (n, *shape) -> (*shape).

    Args:
        weight: how much of each.
        of: the models themselves, or their deltas around the base (which it then needs).
        normalize: divide the weights by their sum.
        eps: added to each norm; a mean direction shorter than this is none.
    """
    rows = site.deltas if of == "deltas" else site.tensors
    numbers = _coefficients(site, tuple(weight.flatten().tolist()), normalize, eps)
    merged = weighted_sum(site.column(numbers), rows)
    return site.base + merged if of == "deltas" else merged
