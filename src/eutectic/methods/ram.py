"""RAM: sum the changes that one model alone made, average those that several made.

Source: Reinforced Agent Merging, 2026, arXiv:2601.13572: a delta below epsilon is none; where one model alone has a
delta it is taken in full, where several have, their mean. RAM+ strengthens each model's own deltas by
1 + r min(rho, alpha), rho being the number of its shared deltas over the number of its own.
Departs: a delta of exactly epsilon counts. The authors' code counts over the model and has r 0.05 and alpha 1;
mergekit's `ram` is r 0, its `ramplus_tl` r 0.1, alpha 0.2 and `scope: tensor`.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from eutectic.methods.declare import Bounds, Laws, Locality, Needs, Paper, combine
from eutectic.methods.site import Site, weighted_sum
from eutectic.numerics.stages import Combination, Numbers, Trim
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Scope, Statistic
from eutectic.stats.weights import Overlap


def _folds(*, epsilon: float, r: float, scope: str, **_: object) -> Mapping[str, Statistic]:
    return {"overlap": Overlap(Scope.MODEL if scope == "model" else Scope.TENSOR, epsilon)} if r else {}


def _factors(site: Site, r: float, alpha: float) -> Numbers:
    """Returns what multiplies the deltas that a model alone has; where it has none, no matter what."""
    if not r:
        return (1.0,) * site.n
    return tuple(1 + r * min((active - own) / max(own, 1), alpha) for active, own in site.fold("overlap").tolist())


def _fused(site: Site, *, epsilon: float, r: float, alpha: float, scope: str) -> Combination:
    stages = (Trim((epsilon,) * site.n),)
    return Combination(_factors(site, r, alpha), "deltas", 1.0, 1.0, "active", stages=stages)


@combine(
    Paper("arXiv:2601.13572", "Reinforced Agent Merging (RAM)", 2026),
    needs=Needs(base=True, locality=Locality.ELEMENT, scratch=4.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=False),
    folds=_folds,
    fused=_fused,
)
def ram(
    site: Site,
    *,
    epsilon: Annotated[float, Bounds(0.0)] = 1e-5,
    r: float = 0.0,
    alpha: float = 1.0,
    scope: Literal["model", "tensor"] = "model",
) -> Tensor:
    """Adds what one model alone changed, averages what several changed: (n, *shape) around (*shape) -> (*shape).

    Args:
        epsilon: the least magnitude of a delta that counts.
        r: how much a model's own deltas are strengthened (RAM+); 0 is RAM.
        alpha: the most that the ratio of shared to own deltas counts for.
        scope: count deltas over the whole model (the authors' code), or in each tensor (mergekit).
    """
    deltas = site.deltas * (site.deltas.abs() >= epsilon)  # a NaN times 0 is a NaN: it is seen
    one = torch.ones_like(site.column([1.0] * site.n))
    nothing = torch.zeros_like(deltas[0])
    count = weighted_sum(one, (deltas != 0).to(deltas))  # (*shape)
    alone = nothing + weighted_sum(site.column(_factors(site, r, alpha)), deltas)
    mean = (nothing + weighted_sum(one, deltas)) / count.clamp(min=1)
    return site.base + mean.where(count > 1, alone)
