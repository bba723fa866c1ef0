"""What methods on whole matrices share: the tensors they are for, what merges the others, and their memory."""

from typing import Literal

from eutectic.methods.declare import Domain, Elsewhere

#: Which tensors: the linear maps, or all of two axes.
Tensors = Literal["linear", "matrices"]


def domain(tensors: str) -> Domain:
    """Returns the domain that the word stands for."""
    return Domain.MATRIX if tensors == "matrices" else Domain.LINEAR


def mean_elsewhere(n: int, *, scale: float, **_: object) -> Elsewhere:
    """Says that the other tensors move by the mean of the n weighted deltas, times the scale."""
    return Elsewhere("task_arithmetic", {"scale": scale / n})


def svd_scratch(n: int, shape: tuple[int, ...]) -> float:
    """Peak memory, in float32 elements, of one decomposition of a matrix and of its n models' vectors side by side.

    Gram matrix, eigenvectors and LAPACK's workspace are float64 and of the smaller side; singular vectors, at most as
    many as the smaller side has, are held in both precisions.
    """
    small, large = min(shape), max(shape)
    return 16.0 * small * small + 2048.0 * small + 8.0 * (small + large) * small
