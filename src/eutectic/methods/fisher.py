"""Fisher merging: an average in which every parameter of a model weighs by how much its predictions hang on it.

Source: Matena and Raffel, Merging Models with Fisher-Weighted Averaging, NeurIPS 2022, arXiv:2111.09832, equation (4):
theta = sum_k w_k F_k theta_k / sum_k w_k F_k, F_k the diagonal of model k's Fisher matrix on its own data.
Departs: `floor` is added to every F_k, as MergeLM and fusion_bench do (1e-6; the authors' code has 1e-10), so that
parameters that nobody's predictions hang on are averaged. `kind: batch` is the estimate of those codes. Heads stay
outside by a rule (`role: head`, `keep`).
"""

from collections.abc import Mapping
from typing import Literal

from eutectic.methods.declare import Laws, Locality, Needs, NonNegative, Paper, PerModelWeight, combine
from eutectic.methods.site import Site, weighted_sum
from eutectic.numerics.tensors import Tensor
from eutectic.stats.fold import Calibrated, Norm
from eutectic.stats.gradients import FisherDiagonal

Kind = Literal["exact", "sampled", "empirical", "batch"]


def _calibrated(*, kind: Kind, normalize: bool, **_: object) -> Mapping[str, Calibrated | Norm]:
    diagonal = FisherDiagonal(kind)
    return {"fisher": diagonal, "norm": Norm(diagonal)} if normalize else {"fisher": diagonal}


@combine(
    Paper("arXiv:2111.09832", "Merging Models with Fisher-Weighted Averaging", 2022),
    needs=Needs(locality=Locality.ELEMENT, scratch=4.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=True, shift=True, scale=True),
    calibrated=_calibrated,
)
def fisher(
    site: Site,
    *,
    weight: PerModelWeight = 1.0,  # type: ignore[assignment]
    kind: Kind = "exact",
    normalize: bool = True,
    floor: NonNegative = 1e-6,
) -> Tensor:
    """Weighs each element by its Fisher information: (n, *shape), n diagonals (n, *shape) -> (*shape).

    Args:
        weight: how much each model counts.
        kind: how the diagonal is estimated: the expectation over classes, a drawn label, the given one, or batches.
        normalize: divide each model's diagonal by its norm over all merged tensors, so that no model outweighs others
            by the scale of its predictions.
        floor: added to the diagonals.
    """
    diagonal: Tensor = (site.fold("fisher").to(site.tensors) + floor) * weight
    if normalize:
        inverse = [1 / (norm + floor) for norm in site.fold("norm")]
        diagonal = diagonal * site.column([each / sum(inverse) for each in inverse])
    total = diagonal.sum(0)
    even = (total == 0).to(diagonal)  # no floor, and nobody's predictions hang on it
    return weighted_sum(diagonal + even, site.tensors) / (total + even * site.n)
