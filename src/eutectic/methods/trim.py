"""Trim: keep the largest changes of each model, by magnitude.

Source: Yadav et al., TIES-Merging, NeurIPS 2023, arXiv:2306.01708, Algorithm 1, step 1, as a step of its own.
Departs: magnitudes equal to the cut are all kept, also where mergekit keeps an exact count (which of the equal ones it
keeps depends on an unstable sort). `rescale: l1` is mergekit's: the sum of magnitudes of each tensor is restored.
"""

from collections.abc import Mapping
from typing import Literal

from eutectic.methods.declare import Laws, Locality, Needs, Paper, PerModelFraction, transform
from eutectic.methods.site import Site
from eutectic.numerics.stages import Numbers, Scale, Stage, Trim
from eutectic.numerics.tensors import Tensor
from eutectic.stats.fold import Scope, Statistic
from eutectic.stats.quantiles import MagnitudeQuantile, Rank
from eutectic.stats.weights import Mass, restoring


def _folds(*, density: Numbers, scope: str, count: Rank, rescale: str) -> Mapping[str, Statistic]:
    if min(density) >= 1:
        return {}
    cut = MagnitudeQuantile(Scope.MODEL if scope == "model" else Scope.TENSOR, density, count)
    if rescale == "none":
        return {"cut": cut}
    return {"cut": cut, "all": Mass(Scope.TENSOR), "kept": Mass(Scope.TENSOR, cut=cut)}


def _fused(site: Site, *, density: Numbers, scope: str, count: Rank, rescale: str) -> tuple[Stage, ...]:
    if min(density) >= 1:
        return ()
    stages: tuple[Stage, ...] = (Trim(site.fold("cut")),)
    if rescale == "none":
        return stages
    return (*stages, Scale(restoring(site.fold("all"), site.fold("kept"))))


@transform(
    Paper("arXiv:2306.01708", "TIES-Merging", 2023),
    needs=Needs(base=True, locality=Locality.ELEMENT, scratch=2.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True),
    folds=_folds,
    fused=_fused,
)
def trim(
    site: Site,
    *,
    density: PerModelFraction,
    scope: Literal["model", "tensor"] = "model",
    count: Literal["official", "exact", "mask_rate"] = "official",
    rescale: Literal["none", "l1"] = "none",
) -> Tensor:
    """Zeroes the small deltas of each model: (n, *shape) -> (n, *shape).

    Args:
        density: share kept, by magnitude; 1 keeps all.
        scope: one cut per model over all its merged tensors, or one per tensor.
        count: how the share becomes a rank: the authors' (int(d * K) + 1 kept), mergekit's exact count, or MergeLM's.
        rescale: leave what is kept as it is, or restore each tensor's sum of magnitudes.
    """
    if bool((density >= 1).all()):
        return site.deltas
    kept = site.deltas * (site.deltas.abs() >= site.column(site.fold("cut")))  # a NaN times 0 is a NaN: it is seen
    if rescale == "none":
        return kept
    return kept * site.column(restoring(site.fold("all"), site.fold("kept")))
