"""RegMean: for each linear map, the weights whose outputs are closest to every model's own on that model's inputs.

Source: Jin et al., Dataless Knowledge Fusion by Merging Weights of Language Models, ICLR 2023, arXiv:2212.09849,
equation (2) and section 3.2: W = (sum_k G_k)^-1 sum_k G_k W_k with G_k = X_k^T X_k / rows, whose entries off the
diagonal are multiplied by alpha. Behind the merged blocks (`prefix: merged`) it is RegMean++, arXiv:2508.03121.
Departs: solved for the difference from the models' mean, which is the same where the inputs determine an answer, and
stays at the mean where they do not (the published codes invert a matrix that is singular there). Tensors that are no
linear maps, or that no sample reached, are averaged, as published. Padded tokens do not count unless the recipe says
`padding: include`, as the published codes do.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from eutectic.methods.declare import Domain, Fraction, Laws, Locality, Needs, Paper, PerModelWeight, combine
from eutectic.methods.site import Site, weighted_sum
from eutectic.numerics.solve import solve_gram
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Calibrated
from eutectic.stats.inputs import InputGram
from eutectic.stats.store import Measured


def _calibrated(*, prefix: str, **_: object) -> Mapping[str, Calibrated]:
    return {"gram": InputGram("merged" if prefix == "merged" else "each")}


def _scratch(n: int, shape: tuple[int, ...]) -> float:
    """Float32 elements: the inputs' width may be either axis; four matrices of it in float64, three of the shape's."""
    return 8.0 * max(shape) ** 2 + 6.0 * shape[0] * shape[-1] + n * shape[0] * shape[-1]


@combine(
    Paper("arXiv:2212.09849", "Dataless Knowledge Fusion by Merging Weights of Language Models", 2023),
    needs=Needs(locality=Locality.TENSOR, domain=Domain.LINEAR, scratch=_scratch),
    laws=Laws(symmetric=True, fixed_point=True, identity=True, shift=True, scale=True),
    calibrated=_calibrated,
)
def regmean(
    site: Site,
    *,
    alpha: Fraction = 0.9,
    weight: PerModelWeight = 1.0,  # type: ignore[assignment]
    prefix: Literal["own", "merged"] = "own",
) -> Tensor:
    """Least squares over all models' inputs: (n, d_out, d_in), n Gram matrices (d_in, d_in) -> (d_out, d_in).

    Args:
        alpha: what the Gram matrices' entries off the diagonal are multiplied by; 1 is plain least squares, 0 weighs
            each input channel alone. Published: 0.9 for most, 0.1 where models disagree, 0.95 for CLIP.
        weight: how much each model's data counts.
        prefix: what a block's inputs have passed before it, the model's own blocks or (RegMean++) the merged ones.
    """
    measured: Sequence[Measured] = site.fold("gram")
    transposed = measured[0].axis == 0  # GPT-2 stores (d_in, d_out)
    tensors = site.tensors.mT if transposed else site.tensors
    share = weight.flatten().double()
    mean = weighted_sum(site.column(share / share.sum()), tensors)
    width = tensors.shape[-1]
    total = torch.zeros(width, width, dtype=torch.float64)
    right = torch.zeros(width, tensors.shape[1], dtype=torch.float64)
    for part, found, tensor in zip(share.tolist(), measured, tensors, strict=True):
        gram = found.load()
        diagonal = gram.diagonal().clone()
        gram.mul_(alpha).diagonal().copy_(diagonal)
        weighed = part / max(1, found.rows)
        right.add_(gram @ (tensor - mean).mT.to(gram), alpha=weighed)
        total.add_(gram, alpha=weighed)
        del gram  # before the next is read
    solved = solve_gram(total, right).mT.to(mean)
    return (mean + solved).mT if transposed else mean + solved
