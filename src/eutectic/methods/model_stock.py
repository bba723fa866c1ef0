"""Model Stock: how far to go from the base to the models' mean, from the angle between them.

Source: Jang et al., Model Stock, ECCV 2024, arXiv:2403.19522, equation (6), applied per tensor ("layer"):
t = n cos / (1 + (n - 1) cos), result = t * mean + (1 - t) * base.
Departs: the paper takes one angle for all pairs; here it is the mean over pairs of the cosine (as mergekit) or of the
angle itself (as fusion_bench). `floor` is the least product of norms a cosine is divided by: 0 is exact, 1e-6 is
mergekit's, which pulls the cosine of very small deltas towards 0.
"""

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Literal

import numpy as np

from eutectic.methods.declare import Laws, Locality, Needs, Paper, at_least, combine
from eutectic.methods.site import Site, weighted_sum
from eutectic.numerics.stages import Combination, Floats
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Scope, Statistic
from eutectic.stats.weights import Gram


def ratio(gram: Floats, angle: str, floor: float) -> float:
    """Returns t from the (n, n) inner products of the deltas; 0 where it is not defined."""
    n = len(gram)
    norms = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    cosines = []
    for a, b in combinations(range(n), 2):
        size = max(float(norms[a] * norms[b]), floor)
        cosines.append(min(1.0, max(-1.0, float(gram[a, b]) / size)) if size > 0 else 0.0)
    if angle == "cosine":
        mean = sum(cosines) / len(cosines)
    else:
        mean = math.cos(sum(math.acos(c) for c in cosines) / len(cosines))
    below = 1 + (n - 1) * mean
    return n * mean / below if abs(below) >= 1e-6 else 0.0


def _folds(*, rows: bool, **_: object) -> Mapping[str, Statistic]:
    return {} if rows else {"gram": Gram(Scope.TENSOR, "deltas")}


def _fused(site: Site, *, rows: bool, angle: str, floor: float) -> Combination:
    t = ratio(site.fold("gram"), angle, floor)
    return Combination((1 / site.n,) * site.n, "deltas", anchor=1.0, scale=t)


_NEEDS = Needs(base=True, models=at_least(2), locality=Locality.ELEMENT, scratch=1.0)


def _vary(*, rows: bool, **_: object) -> Needs:
    if not rows:
        return _NEEDS
    return Needs(base=True, models=at_least(2), locality=Locality.ROW, fused=False, scratch=3.0)


@combine(
    Paper("arXiv:2403.19522", "Model Stock", 2024),
    needs=_NEEDS,
    laws=Laws(symmetric=True, fixed_point=True, identity=True, shift=True, scale=True),
    folds=_folds,
    fused=_fused,
    vary=_vary,
)
def model_stock(
    site: Site,
    *,
    rows: bool = False,
    angle: Literal["cosine", "angle"] = "cosine",
    floor: float = 0.0,
) -> Tensor:
    """Moves from the base towards the mean as far as the angle allows: (n, *shape) around (*shape) -> (*shape).

    Args:
        rows: one ratio per output row (filter-wise) instead of one per tensor.
        angle: average the cosines of all pairs, or their angles.
        floor: least product of two norms in a cosine; mergekit has 1e-6.
    """
    mean = weighted_sum(site.column([1 / site.n] * site.n), site.deltas)
    if not rows:
        return site.base + ratio(site.fold("gram"), angle, floor) * mean
    deltas = site.deltas.double()
    deltas = deltas.flatten(1, -2) if deltas.dim() > 2 else deltas.reshape(site.n, 1, mean.numel())
    grams = torch.einsum("arc,brc->rab", deltas, deltas).numpy(force=True)
    t = torch.tensor([ratio(gram, angle, floor) for gram in grams], dtype=mean.dtype, device=mean.device)
    return site.base + t.reshape((*mean.shape[:-1], 1) if mean.dim() else ()) * mean
