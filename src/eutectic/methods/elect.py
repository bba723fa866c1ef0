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
    mass, elected = election(site.deltas, tie_sign(site, tie))
    return site.deltas.where(site.deltas * elected > 0, 0.0).where(~mass.isnan(), mass)


def tie_sign(site: Site, tie: str) -> int:
    """Returns the sign an exact tie elects: 0 is nobody's. A `majority` is read from the fold of that name."""
    if tie == "majority":
        return int(site.fold("majority"))
    return 1 if tie == "plus" else 0


def election(votes: Tensor, tie: int) -> tuple[Tensor, Tensor]:
    """Returns the sum of votes, (n, *shape) -> (*shape), and the sign it elects; NaN where the sum is."""
    one = votes.new_ones(len(votes), *[1] * (votes.dim() - 1))
    mass = weighted_sum(one, votes.clamp(min=0)) + weighted_sum(one, votes.clamp(max=0))
    return mass, torch.where(mass == 0, float(tie), mass.sign())
