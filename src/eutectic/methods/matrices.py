"""What methods on whole matrices share: the tensors they are for, what merges the others, and their memory."""

import math
from typing import Literal

from eutectic.methods.declare import Domain, Elsewhere
from eutectic.methods.site import Site
from eutectic.numerics.tensors import torch

#: Which tensors: the linear maps, or all of two axes.
Tensors = Literal["linear", "matrices"]


def domain(tensors: str) -> Domain:
    """Returns the domain that the word stands for."""
    return Domain.MATRIX if tensors == "matrices" else Domain.LINEAR


def mean_elsewhere(n: int, *, scale: float, **_: object) -> Elsewhere:
    """Says that the other tensors move by the mean of the n weighted deltas, times the scale."""
    return Elsewhere("task_arithmetic", {"scale": scale / n})


def share_of(rank: int, tasks: int) -> int:
    """Returns how many triplets each task keeps: a product in floats, cut off, as in the code of TSV's authors."""
    return int(rank * (1 / tasks))


def rounding(site: Site) -> float:
    """Returns the greatest singular value that storing base and model in the work precision alone may give a delta.

    A matrix of rounding errors of W's elements has a spectral norm of about 0.6 eps |W| / sqrt(r), with r the smaller
    side: directions that are not above four times that are not there.
    """
    eps, rank = torch.finfo(site.base.dtype).eps, max(1, min(site.base.shape))
    return 2 * eps * float(torch.linalg.vector_norm(site.base, dtype=torch.float64)) / math.sqrt(rank)


def svd_scratch(n: int, shape: tuple[int, ...]) -> float:
    """Peak memory, in float32 elements, of one decomposition of a matrix and of its n models' vectors side by side.

    Gram matrix, eigenvectors and LAPACK's workspace are float64 and of the smaller side; singular vectors, at most as
    many as the smaller side has, are held in both precisions.
    """
    small, large = min(shape), max(shape)
    return 16.0 * small * small + 2048.0 * small + 8.0 * (small + large) * small
