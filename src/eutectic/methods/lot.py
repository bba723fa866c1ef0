"""LOT merging: for each linear map, the one task vector whose outputs are closest to every task's own on its inputs.

Source: Sun et al., Towards Minimizing Feature Drift in Model Merging: Layer-wise Task Vector Fusion for Adaptive
Knowledge Integration, NeurIPS 2025, arXiv:2505.23859, the closed form of linear weights:
T = (sum_k G_k)^+ sum_k G_k T_k with G_k = X_k^T X_k over all rows of task k, T_k = W_k - W_0, and W_0 + lambda T.
Departs: the pseudo-inverse is taken in float64, with the cut-off as an option (`rcond`), since the one that float32 has
by default is a regulariser of the published results. Scales of norms are averaged like shifts, not solved for, and so
are convolutions and what no sample reached. Shifts are the plain mean, the closed form for equal counts of samples.
"""

from collections.abc import Mapping, Sequence

from eutectic.methods.declare import (
    Domain,
    Elsewhere,
    Laws,
    Locality,
    Needs,
    NonNegative,
    Paper,
    PerModelWeight,
    combine,
)
from eutectic.methods.site import Site
from eutectic.numerics.solve import NOISE
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Calibrated
from eutectic.stats.inputs import InputGram
from eutectic.stats.store import Measured


def _calibrated(**_: object) -> Mapping[str, Calibrated]:
    return {"gram": InputGram()}


def _elsewhere(n: int, *, scale: float, **_: object) -> Elsewhere:
    return Elsewhere("task_arithmetic", {"scale": scale, "normalize": True})


def _scratch(n: int, shape: tuple[int, ...]) -> float:
    """Float32 elements: the inputs' width may be either axis; five matrices of it in float64, four of the shape's."""
    return 10.0 * max(shape) ** 2 + 8.0 * shape[0] * shape[-1] + n * shape[0] * shape[-1]


@combine(
    Paper("arXiv:2505.23859", "Towards Minimizing Feature Drift in Model Merging", 2025),
    needs=Needs(base=True, locality=Locality.TENSOR, domain=Domain.LINEAR, scratch=_scratch),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True),
    calibrated=_calibrated,
    elsewhere=_elsewhere,
)
def lot(
    site: Site,
    *,
    scale: float = 1.0,
    rcond: NonNegative = 0.0,
    weight: PerModelWeight = 1.0,  # type: ignore[assignment]
) -> Tensor:
    """Least change of outputs, around the base: (n, d_out, d_in), n Gram matrices (d_in, d_in) -> (d_out, d_in).

    Args:
        scale: multiplies the solved task vector (lambda); 1 to 1.5. Published: 1.2 for CLIP B/32, 1.5 for L/14.
        rcond: directions of the inputs whose eigenvalue is below this part of the largest keep the base's weights;
            0 stands for the inputs' width times 1.2e-7, which is what float32 cannot tell from zero.
        weight: how much each model's data counts.
    """
    measured: Sequence[Measured] = site.fold("gram")
    transposed = measured[0].axis == 0  # GPT-2 stores (d_in, d_out)
    deltas = site.deltas.mT if transposed else site.deltas
    width = deltas.shape[-1]
    total = torch.zeros(width, width, dtype=torch.float64)
    right = torch.zeros(width, deltas.shape[1], dtype=torch.float64)
    for part, found, delta in zip(weight.flatten().tolist(), measured, deltas, strict=True):
        gram = found.load().double()
        right.add_(gram @ delta.mT.double(), alpha=part)
        total.add_(gram, alpha=part)
        del gram  # before the next is read
    values, vectors = torch.linalg.eigh(total)
    kept = values > (rcond or NOISE * width) * values[-1].clamp_min(0.0)
    vectors, values = vectors[:, kept], values[kept]
    solved = (vectors @ ((vectors.mT @ right) / values.unsqueeze(1))).mT.to(site.base)
    merged: Tensor = site.base + scale * (solved.mT if transposed else solved)
    return merged
