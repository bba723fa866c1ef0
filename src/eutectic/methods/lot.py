"""LOT merging: for each layer, the one task vector whose outputs are closest to every task's own on its inputs.

Source: Sun et al., Towards Minimizing Feature Drift in Model Merging: Layer-wise Task Vector Fusion for Adaptive
Knowledge Integration, NeurIPS 2025, arXiv:2505.23859, the closed forms: of a linear map
T = (sum_k G_k)^+ sum_k G_k T_k with G_k = X_k^T X_k over all rows of task k and T_k = W_k - W_0; of a norm's scale, for
each channel, T = sum_k s_k T_k / sum_k s_k with s_k the sum of the squares that it multiplies; of a shift, the mean of
T_k; and W_0 + lambda T. A convolution is the map of its unfolded patches, one for each group of channels.
Departs: the pseudo-inverse is taken in float64, with the cut-off as an option (`rcond`), since the one that float32 has
by default is a regulariser of the published results. Where tasks show fewer rows than the inputs are wide, it is that
of the rows (the dual form), which is the same. Shifts are the plain mean, the closed form for equal counts of samples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

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
from eutectic.methods.site import Site, divisor, weighted_sum
from eutectic.numerics.solve import NOISE, gram_rows
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Calibrated, Sees
from eutectic.stats.inputs import InputGram, InputMoments
from eutectic.stats.store import Measured


def _calibrated(**_: object) -> Mapping[str, Calibrated]:
    return {"gram": InputGram(), "scales": InputMoments("each", "scales")}


def _elsewhere(n: int, *, scale: float, **_: object) -> Elsewhere:
    return Elsewhere("task_arithmetic", {"scale": scale, "normalize": True})


def _scratch(n: int, shape: tuple[int, ...]) -> float:
    """Float32 elements: the inputs' width may be either axis; five matrices of it in float64, four of the shape's."""
    if len(shape) < 2:
        return 8.0 * n * sum(shape)
    width = torch.Size(shape[1:]).numel()
    return 10.0 * max(shape[0] if len(shape) == 2 else 0, width) ** 2 + (8.0 + n) * shape[0] * width


@combine(
    Paper("arXiv:2505.23859", "Towards Minimizing Feature Drift in Model Merging", 2025),
    needs=Needs(base=True, locality=Locality.TENSOR, domain=Domain.LAYERS, scratch=_scratch),
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
    """Least change of outputs, around the base: (n, *shape), what each meets -> (*shape).

    Of maps it reads n Gram matrices (d_in, d_in), of scales n rows of squares (d,), of shifts nothing.

    Args:
        scale: multiplies the solved task vector (lambda); 1 to 1.5. Published: 1.2 for CLIP B/32, 1.5 for L/14.
        rcond: directions of the inputs whose eigenvalue is below this part of the largest keep the base's weights;
            0 stands for the inputs' width times 1.2e-7, which is what float32 cannot tell from zero.
        weight: how much each model's data counts.
    """
    deltas = site.deltas
    if site.meets is Sees.INPUTS:
        moved = _map(deltas, site.fold("gram"), weight.flatten().tolist(), rcond)
    elif site.meets is Sees.NORMALISED:
        squares = torch.stack([found.load()[1].double() for found in site.fold("scales")]) * weight.flatten()[:, None]
        total = squares.sum(0)
        moved = (squares * deltas).sum(0) / total.where(total > 0, 1.0)  # what never fires keeps the base
    else:
        moved = weighted_sum(weight, deltas) / divisor(tuple(weight.flatten().tolist()), site.name)
    return site.base + scale * moved.to(deltas)


def _map(deltas: Tensor, found: Sequence[Measured], weight: Sequence[float], rcond: float) -> Tensor:
    """Solves a map: (n, d_out, ...), n Gram matrices -> (d_out, ...), float64."""
    if found[0].axis == 0:  # GPT-2 stores (d_in, d_out)
        return _map(deltas.mT, [replace(each, axis=1) for each in found], weight, rcond).mT
    flat = deltas.flatten(2).double()  # the channels and places of a kernel are its inputs
    width = flat.shape[-1]
    cut = rcond or NOISE * width
    if deltas.dim() == 3 and 4 * sum(min(each.rows, width) for each in found) <= 3 * width:
        return _of_rows(flat, found, weight, cut)
    total, right = torch.zeros(()), torch.zeros(())
    for part, each, delta in zip(weight, found, flat, strict=True):
        gram = each.load().reshape(-1, width, width).to(torch.float64, copy=True).mul_(part)  # one a group of channels
        product = gram @ delta.reshape(len(gram), -1, width).mT
        total, right = (total.add_(gram), right.add_(product)) if total.dim() else (gram, product)
        del gram, product  # before the next is read
    solved = torch.stack([_least(*each, cut).mT for each in zip(total, right, strict=True)])
    return solved.reshape(deltas.shape[1:])


def _of_rows(deltas: Tensor, found: Sequence[Measured], weight: Sequence[float], cut: float) -> Tensor:
    """Solves a map from few rows: X^T (X X^T)^+ Y, X the rows of all tasks, (r, d_in), Y what they make of them.

    Rows are any that have the same Gram matrix.
    """
    rows, outputs = [], []
    for part, each, delta in zip(weight, found, deltas, strict=True):
        rows.append(gram_rows(each.load(), each.rows, cut / delta.shape[1]) * math.sqrt(part))
        outputs.append(rows[-1] @ delta.mT)
    stacked = torch.cat(rows)
    return (stacked.mT @ _least(stacked @ stacked.mT, torch.cat(outputs), cut)).mT


def _least(gram: Tensor, right: Tensor, cut: float) -> Tensor:
    """Returns gram^+ right without the directions whose eigenvalue is below `cut` of the largest."""
    if not gram.numel():
        return torch.zeros_like(right)
    values, vectors = torch.linalg.eigh(gram)
    kept = values > cut * values[-1].clamp_min(0.0)
    vectors, values = vectors[:, kept], values[kept]
    solved: Tensor = vectors @ ((vectors.mT @ right) / values.unsqueeze(1))
    return solved
