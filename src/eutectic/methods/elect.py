"""Elect: keep, of each model's deltas, those whose sign wins; the models stay apart.

Source: Yadav et al., TIES-Merging, NeurIPS 2023, arXiv:2306.01708, Algorithm 1, step 2, as a step of its own: what
AdaMerging++ (arXiv:2310.02575, section 3.3) learns coefficients for, behind `trim`.
Departs: an exact tie elects nobody unless `tie` says otherwise; the authors' code gives it to the majority of the whole
model (`tie: majority`). Each side of a vote is added up by itself, as in `ties`.
"""

from collections.abc import Mapping
from typing import Literal

from eutectic.methods.declare import Laws, Locality, Needs, Paper, transform
from eutectic.methods.site import Site, weighted_sum
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Scope, Statistic
from eutectic.stats.weights import SignBalance


def _folds(*, tie: str) -> Mapping[str, Statistic]:
    return {"majority": SignBalance(Scope.MODEL)} if tie == "majority" else {}


@transform(
    Paper("arXiv:2306.01708", "TIES-Merging", 2023),
    needs=Needs(base=True, locality=Locality.ELEMENT, scratch=4.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=True, shift=True, scale=True),
    folds=_folds,
)
def elect(site: Site, *, tie: Literal["nobody", "majority", "plus"] = "nobody") -> Tensor:
    """Zeroes the deltas whose sign loses the vote: (n, *shape) -> (n, *shape).

    Args:
        tie: what an exactly zero vote elects.
    """
    one = site.column([1.0] * site.n)
    votes = site.deltas
    mass = weighted_sum(one, votes.clamp(min=0)) + weighted_sum(one, votes.clamp(max=0))  # (*shape)
    drawn = float(site.fold("majority")) if tie == "majority" else 1.0 if tie == "plus" else 0.0
    elected = torch.where(mass == 0, drawn, mass.sign())  # (*shape); NaN where the sum is, and it stays one
    return votes.where(votes * elected > 0, 0.0).where(~mass.isnan(), mass)
