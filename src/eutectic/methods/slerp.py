"""SLERP: go from one model to another along the arc between them, tensor by tensor.

Source: Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985, section 3.3, with the guards mergekit
(arcee-ai/mergekit 0.1.5) made standard: the arc is taken on the tensors as they are, not on unit vectors, and nearly
(anti)parallel tensors are interpolated linearly.
"""

import math
from collections.abc import Mapping

from eutectic.methods.declare import Laws, Locality, Needs, Paper, combine, exactly
from eutectic.methods.site import Site
from eutectic.numerics.stages import Combination, Floats
from eutectic.numerics.tensors import Tensor
from eutectic.stats.fold import Scope, Statistic
from eutectic.stats.weights import Gram


def coefficients(gram: Floats, t: float, parallel: float) -> tuple[float, float]:
    """Returns what multiplies start and end, from their (2, 2) inner products."""
    first, second = (math.sqrt(max(float(gram[k, k]), 0.0)) for k in (0, 1))
    first, second = (norm if norm > 1e-8 else 1.0 for norm in (first, second))
    cosine = float(gram[0, 1]) / first / second
    cosine = min(1.0, max(-1.0, cosine)) if cosine == cosine else 1.0
    if abs(cosine) > parallel:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def _folds(**_: object) -> Mapping[str, Statistic]:
    return {"gram": Gram(Scope.TENSOR, "weights")}


def _fused(site: Site, *, t: float, parallel: float) -> Combination:
    start, end = coefficients(site.fold("gram"), t, parallel)
    if site.n == 2:
        return Combination((start, end), "weights")
    return Combination((end,), "weights", anchor=start)


@combine(
    Paper("doi:10.1145/325165.325242", "Animating rotation with quaternion curves", 1985),
    needs=Needs(models=exactly(2), base_counts=True, locality=Locality.ELEMENT, scratch=1.0),
    laws=Laws(symmetric=False, fixed_point=True, identity=True, shift=False, scale=True),
    folds=_folds,
    fused=_fused,
)
def slerp(site: Site, *, t: float, parallel: float = 0.9995) -> Tensor:
    """Interpolates two points on their arc: (2, *shape), or (1, *shape) and the base -> (*shape).

    Args:
        t: 0 is the base (or the first model), 1 the other; may lie outside.
        parallel: cosine above which, in magnitude, the two are interpolated linearly.
    """
    start, end = coefficients(site.fold("gram"), t, parallel)
    if site.n == 2:
        return start * site.tensors[0] + end * site.tensors[1]
    return start * site.base + end * site.tensors[0]
