"""SCE: select where the models differ, calculate how much each weighs, erase the minority's sign.

Source: Wan et al., FuseChat, 2024, arXiv:2408.07990, section 3.3, and the authors' code: of each tensor the elements
whose deltas vary most over the models are selected; a model's weight is its share of the squared deltas there; then
the deltas of all elements that agree with the sign of their plain sum are averaged by weight.
Departs: elements whose variance equals the cut are all selected. `mask: deltas` and `floor: 1e-6` are mergekit's
`sce`, which sets the other elements' deltas to zero, weighs all alike when the mean squares add up to less than the
floor, and divides by no less. Variances are compared without their common factor 1 / n.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

from eutectic.methods.declare import Bounds, Fraction, Laws, Locality, Needs, Paper, combine
from eutectic.methods.site import Site, weighted_sum
from eutectic.numerics.stages import Combination, Numbers, Select, apply
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Scope, Statistic
from eutectic.stats.quantiles import SpreadQuantile
from eutectic.stats.weights import Energy


def _folds(*, select_topk: float, mask: str, **_: object) -> Mapping[str, Statistic]:
    if select_topk >= 1:
        return {"energy": Energy(Scope.TENSOR)}
    cut = SpreadQuantile(Scope.TENSOR, select_topk)
    energy = Energy(Scope.TENSOR, "deltas", cut)
    return {"cut": cut, "energy": energy} if mask == "deltas" else {"energy": energy}


def _weights(site: Site, floor: float) -> Numbers:
    """Returns each model's share of the squared deltas; all alike where there are none to speak of."""
    energy = site.fold("energy").tolist()
    total = math.fsum(energy)
    if total == 0 or total / max(1, site.numel) < floor:
        return (1 / site.n,) * site.n
    return tuple(own / total for own in energy)


def _stages(site: Site, select_topk: float, mask: str) -> tuple[Select, ...]:
    return (Select(*site.fold("cut")),) if mask == "deltas" and select_topk < 1 else ()


def _fused(site: Site, *, select_topk: float, mask: str, floor: float) -> Combination:
    stages = _stages(site, select_topk, mask)
    weights = _weights(site, floor)
    return Combination(weights, "deltas", 1.0, 1.0, "agree_weight", 1, stages, vote="plain", floor=floor)


@combine(
    Paper("arXiv:2408.07990", "FuseChat (SCE)", 2024),
    needs=Needs(base=True, locality=Locality.ELEMENT, scratch=6.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=True, shift=True, scale=True),
    folds=_folds,
    fused=_fused,
)
def sce(
    site: Site,
    *,
    select_topk: Fraction = 1.0,
    mask: Literal["weights", "deltas"] = "weights",
    floor: Annotated[float, Bounds(0.0)] = 0.0,
) -> Tensor:
    """Averages the deltas whose sign wins, by how much each model changed: (n, *shape) around (*shape) -> (*shape).

    Args:
        select_topk: share of the elements selected, of those on which the models differ; FuseChat used 0.1.
        mask: what the selection is for: the weights only (the authors' code), or the merged deltas too (mergekit).
        floor: the least mean square that tells the models apart, and the least divisor; mergekit has 1e-6.
    """
    deltas = site.deltas
    for stage in _stages(site, select_topk, mask):
        deltas = apply(stage, deltas, site.key)
    weight = site.column(_weights(site, floor))
    one = torch.ones_like(weight)
    mass = weighted_sum(one, deltas.clamp(min=0)) + weighted_sum(one, deltas.clamp(max=0))  # (*shape)
    elected = torch.where(mass == 0, 1.0, mass.sign())
    agree = deltas * elected > 0  # (n, *shape)
    total = weighted_sum(weight, agree.to(deltas))
    total = total.clamp(min=floor) if floor > 0 else total.where(total != 0, 1.0)
    merged = weighted_sum(weight, deltas.where(agree, 0.0)) / total
    return site.base + merged.where(~mass.isnan(), mass)
