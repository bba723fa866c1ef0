"""TIES: trim what is small, elect a sign, average those who agree.

Source: Yadav et al., TIES-Merging, NeurIPS 2023, arXiv:2306.01708, Algorithm 1, and the authors' code.
Departs: weights may differ per model (the paper's are equal) and enter the vote, so a negative weight turns its model's
vote; an exact tie elects nobody unless `tie` says otherwise (the authors' code gives it to the majority of the whole
model, at the price of one more sweep; mergekit to plus). Each side of a vote is added up by itself, as Algorithm 1
says it, where the authors' code adds all in order: a near-tie may round to the other side. For mergekit's `ties`:
scope tensor, count exact, average weight, tie plus.
"""

from collections.abc import Mapping
from typing import Literal

from eutectic.methods.declare import Laws, Locality, Needs, Paper, PerModel, PerModelFraction, combine
from eutectic.methods.elect import election, tie_sign
from eutectic.methods.site import Site, weighted_sum
from eutectic.numerics.stages import Combination, Numbers, Trim
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Scope, Statistic
from eutectic.stats.quantiles import MagnitudeQuantile, Rank
from eutectic.stats.weights import SignBalance


def _folds(
    *, density: Numbers, weight: Numbers, scope: str, count: Rank, tie: str, **_: object
) -> Mapping[str, Statistic]:
    folds: dict[str, Statistic] = {}
    cut = None
    if min(density) < 1:
        cut = MagnitudeQuantile(Scope.MODEL if scope == "model" else Scope.TENSOR, density, count)
        folds["cut"] = cut
    if tie == "majority":
        folds["majority"] = SignBalance(Scope.MODEL, weight, cut)
    return folds


def _fused(
    site: Site, *, density: Numbers, weight: Numbers, scale: float, average: str, tie: str, **_: object
) -> Combination:
    names = {
        "count": "agree_count",
        "weight": "agree_weight",
        "sum": "agree_sum",
        "max": "agree_max",
    }
    trims = (Trim(site.fold("cut")),) if min(density) < 1 else ()
    return Combination(weight, "deltas", 1.0, scale, names[average], tie_sign(site, tie), trims)  # type: ignore[arg-type]


@combine(
    Paper("arXiv:2306.01708", "TIES-Merging", 2023),
    needs=Needs(base=True, locality=Locality.ELEMENT, scratch=5.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True),
    folds=_folds,
    fused=_fused,
)
def ties(
    site: Site,
    *,
    density: PerModelFraction = 0.2,  # type: ignore[assignment]
    weight: PerModel = 1.0,  # type: ignore[assignment]
    scale: float = 1.0,
    scope: Literal["model", "tensor"] = "model",
    count: Literal["official", "exact", "mask_rate"] = "official",
    average: Literal["count", "weight", "sum", "max"] = "count",
    tie: Literal["nobody", "majority", "plus"] = "nobody",
) -> Tensor:
    """Merges the deltas whose sign wins: (n, *shape) around (*shape) -> (*shape).

    Args:
        density: share of each model's deltas kept, by magnitude; 1 keeps all (trim in a step before).
        weight: how much of each delta, in the vote and in the average.
        scale: multiplies the merged delta (lambda).
        scope: one cut per model over all its merged tensors (the paper), or one per tensor.
        count: how the share becomes a rank: the authors' (int(d * K) + 1 kept), mergekit's exact count, or MergeLM's.
        average: divide the sum of those who agree by their number, by their weights, by nothing, or take the largest.
        tie: what an exactly zero vote elects.
    """
    votes = site.deltas
    if not bool((density >= 1).all()):
        votes = votes * (votes.abs() >= site.column(site.fold("cut")))  # a NaN times 0 is a NaN: it is seen
    votes = weight * votes  # (n, *shape)
    mass, elected = election(votes, tie_sign(site, tie))  # (*shape)
    agree = votes * elected > 0  # (n, *shape)
    if average == "max":
        merged = (votes * elected).where(agree, 0.0).amax(0) * elected
    else:
        merged = weighted_sum(agree.to(votes), votes.where(agree, 0.0))
        if average != "sum":
            shares = torch.ones_like(weight) if average == "count" else weight
            total = weighted_sum(shares, agree.to(votes))  # (*shape), 0 where nobody agrees
            merged = merged / total.where(total != 0, 1.0)
    return site.base + scale * merged.where(~mass.isnan(), mass)
