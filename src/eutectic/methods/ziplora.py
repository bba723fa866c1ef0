"""ZipLoRA: two adapters side by side, each input channel of each weighted so that they keep out of each other's way.

Source: Shah et al., ZipLoRA, ECCV 2024, arXiv:2311.13600, equations 2 to 4; settings after a public implementation, as
the authors published none. Every linear map gets W = W_0 + D_1 diag(m_1) + D_2 diag(m_2), where m_1 and m_2, (d_in,),
start at 1 and are learned through the whole network f:

    |f(W; x_1) - f(W_0 + D_1; x_1)|^2 + |f(W; x_2) - f(W_0 + D_2; x_2)|^2 + similarity * sum of overlaps

on samples x_1, x_2 of both models' data, squares averaged; a map's overlap is |m_1 . m_2| in the paper, and the mean of
the channels' |m_1 m_2| in the code. AdamW with weight decay 1e-4, gradients cut to norm 1.

Departs: f is the model up to its head (published for the noise that a diffusion model predicts); a step shows as many
samples of each model as `calibration.batch` says (1). The overlap is the code's unless `overlap: paper`: the paper's
outweighs what hidden states differ by, and merged text experts to less than their sum. The rate of the code's command,
1e-4, moves no number by more than 0.01 in its 100 steps; here it is 0.01. Scales of adapters (alpha / r) count, which
the code ignores. Full models have updates as adapters do. What is no linear map is added up, as if its numbers were 1.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from eutectic.methods.declare import Count, Domain, Elsewhere, Laws, Locality, Needs, NonNegative, Paper, combine
from eutectic.methods.site import Site
from eutectic.numerics.tensors import Tensor
from eutectic.stats.columns import ColumnWeights
from eutectic.stats.fold import Calibrated
from eutectic.stats.store import Measured


def _calibrated(
    *, similarity: float, overlap: Literal["paper", "code"], steps: int, rate: float
) -> Mapping[str, Calibrated]:
    return {"columns": ColumnWeights(similarity, overlap, steps, rate)}


def _elsewhere(n: int, **_: object) -> Elsewhere:
    return Elsewhere("task_arithmetic")


@combine(
    Paper("arXiv:2311.13600", "ZipLoRA: Any Subject in Any Style by Effectively Merging LoRAs", 2024),
    needs=Needs(base=True, models=Count(2, 2), locality=Locality.TENSOR, domain=Domain.LINEAR, scratch=2.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True),
    calibrated=_calibrated,
    elsewhere=_elsewhere,
)
def ziplora(
    site: Site,
    *,
    similarity: NonNegative = 0.01,
    overlap: Literal["code", "paper"] = "code",
    steps: int = 100,
    rate: NonNegative = 0.01,
) -> Tensor:
    """Adds both updates with learned weights of input channels: (2, d_out, d_in), 2 of (d_in,) -> (d_out, d_in).

    Args:
        similarity: how much overlapping weights cost (lambda).
        overlap: a map's: the mean of its channels' magnitudes (`code`), or summed over them before its magnitude is
            taken (`paper`), which is larger by the number of channels and wants a smaller `similarity`.
        steps: of learning; fewer where no overlap is left.
        rate: of learning.
    """
    measured: Sequence[Measured] = site.fold("columns")
    merged = site.base.clone()
    for found, delta in zip(measured, site.deltas, strict=True):
        columns = found.load().to(delta)
        merged += delta * (columns.unsqueeze(-1) if found.axis == 0 else columns)
    return merged
