"""Karcher mean: the point on the sphere from which the models are nearest, by the squared angles to all of them.

Source: Karcher, Riemannian center of mass and mollifier smoothing, 1977, section 1, as arcee-ai/mergekit 0.1.5 does it
tensor by tensor: from the mean of the unit vectors, steps along the mean of their logarithms until one is shorter than
`tol`; the result gets the mean of the models' norms.
All points stay in the span of the models, so the iteration runs on their (n, n) inner products in float64, and the
tensors are read once more to add them up.
Departs: a model has no direction where its norm is at most `floor`, which is 0; in mergekit that is `tol`, and tensors
of a smaller norm come out as zeros. A model opposite to the mean pulls nowhere.
"""

from collections.abc import Mapping

import numpy as np

from eutectic.methods.declare import Laws, Locality, Needs, NonNegative, Paper, combine
from eutectic.methods.site import Site, weighted_sum
from eutectic.numerics.stages import Combination, Floats, Numbers
from eutectic.numerics.tensors import Tensor
from eutectic.stats.fold import Scope, Statistic
from eutectic.stats.weights import Gram


def coefficients(gram: Floats, max_iter: int, tol: float, floor: float) -> Numbers:
    """Returns what multiplies each model, from the (n, n) inner products; zeros where no model has a direction."""
    if not np.isfinite(gram).all():  # no directions; the plain mean leaves the finite elements usable
        return (1 / len(gram),) * len(gram)
    norms = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    kept = np.flatnonzero(norms > floor)
    found = np.zeros(len(norms))
    if len(kept):
        cosines = gram[np.ix_(kept, kept)] / norms[kept, None] / norms[None, kept]
        found[kept] = _mean(cosines, max_iter, tol) / norms[kept] * norms.mean()
    return tuple(found.tolist())


def _mean(cosines: Floats, max_iter: int, tol: float) -> Floats:
    """Returns the mean direction as a combination of unit vectors with these inner products."""
    n = len(cosines)
    mean = np.full(n, 1 / n)
    length = _length(mean, cosines)
    mean = mean / length if length >= tol else np.eye(n)[0]
    for _ in range(max_iter):
        near = np.clip(cosines @ mean, -1.0, 1.0)
        angle = np.arccos(near)
        sine = np.sin(angle)
        pulls = (angle >= tol) & (sine > 1e-8)
        share = np.where(pulls, angle / np.where(pulls, sine, 1.0), 0.0) / n
        step = share - float(share @ near) * mean
        length = _length(step, cosines)
        if length < max(tol, 1e-15):
            break
        mean = np.cos(length) * mean + np.sin(length) / length * step
        mean = mean / _length(mean, cosines)
    return mean


def _length(combination: Floats, cosines: Floats) -> float:
    return float(np.sqrt(max(float(combination @ cosines @ combination), 0.0)))


def _coefficients(site: Site, max_iter: int, tol: float, floor: float) -> Numbers:
    gram = site.fold("gram")[-site.n :, -site.n :]  # a base that is there for an adapter's sake comes first
    return coefficients(gram, max_iter, tol, floor)


def _folds(**_: object) -> Mapping[str, Statistic]:
    return {"gram": Gram(Scope.TENSOR, "weights")}


def _fused(site: Site, *, max_iter: int, tol: float, floor: float) -> Combination:
    return Combination(_coefficients(site, max_iter, tol, floor), "weights")


@combine(
    Paper("doi:10.1002/cpa.3160300502", "Riemannian center of mass and mollifier smoothing", 1977),
    needs=Needs(locality=Locality.ELEMENT, scratch=1.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=True, shift=False, scale=True),
    folds=_folds,
    fused=_fused,
)
def karcher(site: Site, *, max_iter: int = 10, tol: NonNegative = 1e-5, floor: NonNegative = 0.0) -> Tensor:
    """Averages the models' directions on the sphere, and their norms: (n, *shape) -> (*shape).

    Args:
        max_iter: most steps.
        tol: stop after a step of so small an angle; smaller angles and shorter first means count as none.
        floor: models of a norm up to this have no direction; mergekit has its `tol` here.
    """
    return weighted_sum(site.column(_coefficients(site, max_iter, tol, floor)), site.tensors)
