"""PCB: let the elements compete, within their model and between models, and keep the winners.

Source: Du et al., Parameter Competition Balancing, NeurIPS 2024, arXiv:2410.02396, and the three formulas of the
authors' code: `inter: pairs` with clip 0.01 and ratio 0.05 is its vision code with searched coefficients (the defaults
here), `inter: shares` with the same numbers the one without, `inter: sum` with clip 1e-4 and ratio 0.1 the outline.
Magnitudes are clipped to quantiles over the model; an element's score is its intra-balance (its size among its
model's) times its inter-balance (does it go with the other models); of each model the best `ratio` of the scores
count, from 0 at the cut to 1 at the best; the clipped deltas are averaged with these weights.
Departs: where all magnitudes or scores of a model are equal, the authors divide by zero; here nothing of it counts.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from eutectic.methods.declare import Bounds, Fraction, Laws, Locality, Needs, Paper, PerModel, combine
from eutectic.methods.site import Site, weighted_sum
from eutectic.numerics.stages import column
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.competition import Inter, MagnitudeEdges, ScoreEdges, clipped, scores
from eutectic.stats.fold import Scope, Statistic


def _folds(*, inter: Inter, clip: float, ratio: float, **_: object) -> Mapping[str, Statistic]:
    edges = MagnitudeEdges(Scope.MODEL, clip)
    return {"edges": edges, "scores": ScoreEdges(Scope.MODEL, edges, inter, ratio)}


@combine(
    Paper("arXiv:2410.02396", "Parameter Competition Balancing (PCB)", 2024),
    needs=Needs(base=True, locality=Locality.ELEMENT, scratch=8.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True),
    folds=_folds,
)
def pcb(
    site: Site,
    *,
    weight: PerModel = 1.0,  # type: ignore[assignment]
    scale: float = 1.2,
    inter: Literal["pairs", "shares", "sum"] = "pairs",
    clip: Annotated[float, Bounds(0.0, 0.5)] = 0.01,
    ratio: Fraction = 0.05,
) -> Tensor:
    """Averages the winners of a competition: (n, *shape) around (*shape) -> (*shape).

    Args:
        weight: multiplies each model's deltas, behind the competition.
        scale: multiplies the merged delta (lambda).
        inter: agreement of shares with each model in turn, or of deltas with the sum of all shares or of all deltas.
        clip: share of each model's magnitudes that are clipped at either end.
        ratio: share of each model's elements that count.
    """
    edges, (cut, best) = site.fold("edges"), site.fold("scores").tolist()
    low, high = column(tuple(cut), site.deltas), column(tuple(best), site.deltas)
    room = high - low
    score = scores(site.deltas, edges, inter)
    share = (score.clamp(low, high) - low) / room.where(room > 0, 1.0)  # (n, *shape), 0 for losers
    kept = site.deltas.sign() * clipped(site.deltas, edges)[0] * share
    total = weighted_sum(torch.ones_like(low), share).clamp(min=1e-12)
    return site.base + scale * (weighted_sum(weight, kept) / total)
