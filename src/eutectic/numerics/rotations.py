"""Rotations and their generators: skew matrices Q with R = (I - Q)^-1 (I + Q), the Cayley transform. float64."""

import math

from eutectic.numerics.tensors import Tensor, torch

#: Singular values up to so many units of roundoff of the largest, and side, are none.
_COMPUTED = 16
#: Generators longer than this are of half a turn but for rounding errors: an angle t has the length sqrt(2) tan(t / 2).
_LONGEST = 1e6


def nearest_rotation(matrix: Tensor) -> Tensor:
    """Returns the rotation R (n, n) of determinant 1 with the largest inner product with a matrix (n, n).

    So W R is nearest to V for `matrix = W^T V`. Where the matrix has null directions many rotations are as near; of
    these it is the one nearest to the identity. No numbers in give none out.
    Source: Kabsch, 1976; Umeyama, 1991, for the sign.
    """
    if not bool(matrix.isfinite().all()):
        return torch.full_like(matrix, math.nan)
    u, s, vt = torch.linalg.svd(matrix)
    k = int((s > s[:1] * _COMPUTED * len(s) * torch.finfo(s.dtype).eps).sum())
    if k < len(s):  # between the null spaces, what is nearest to staying
        a, _, bt = torch.linalg.svd(u[:, k:].T @ vt[k:].T)
        u, vt = torch.cat([u[:, :k], u[:, k:] @ a], 1), torch.cat([vt[:k], bt @ vt[k:]], 0)
    if float(torch.linalg.det(u) * torch.linalg.det(vt)) < 0:
        u[:, -1] *= -1
    found: Tensor = u @ vt
    return found


def generator_of(rotation: Tensor) -> Tensor | None:
    """Returns the generator (R + I)^-1 (R - I) of a rotation (n, n); None where it turns a direction by half a turn."""
    one = torch.eye(len(rotation), dtype=rotation.dtype)
    found, failed = torch.linalg.solve_ex(rotation + one, rotation - one)
    if int(failed) or float(torch.linalg.vector_norm(found)) > _LONGEST:
        return None
    skew: Tensor = (found - found.T) / 2
    return skew


def rotation_of(generator: Tensor) -> Tensor:
    """Returns the rotation (I - Q)^-1 (I + Q) of a generator (n, n)."""
    one = torch.eye(len(generator), dtype=generator.dtype)
    found: Tensor = torch.linalg.solve(one - generator, one + generator)
    return found
