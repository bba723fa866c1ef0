"""Singular vectors, polar factors and ranks of one matrix, each by the cheapest way whose error is stated.

Two ways lead to the singular vectors of a matrix A. The *plain* one is the library's SVD. The *Gram* way takes the
eigenvectors of A^T A (or A A^T, whichever is smaller), which costs a fraction: it squares the spread of the singular
values, so that with a unit roundoff e the value s_i comes out with a relative error of about e (s_1 / s_i)^2. The Gram
way is taken for float32 matrices, in float64 (e = 1e-16), and directions with s_i <= eps32 max(m, n) s_1, which float32
data cannot tell from none, are dropped in both ways: at this edge the error is 1e-16 / (1e-7 max(m, n))^2 <= 1e-4 of a
value that is itself 1e-7 max(m, n) of the largest, and it falls with the square of the distance. float64 matrices, and
those whose caller asks for `exact`, go the plain way.

A NaN or infinity anywhere makes every number of the result NaN; nothing raises.
"""

from dataclasses import dataclass
from itertools import pairwise

from eutectic.numerics.tensors import Tensor, torch

#: Rows of a matrix that are widened to float64 at once.
_ROWS = 1024
#: A Gram matrix is made in so many column blocks; those below the diagonal are not computed.
_BLOCKS = 4


@dataclass(frozen=True)
class Svd:
    """Singular triplets, the largest first: A ~ u @ diag(s) @ v.T.

    Attributes:
        u: left vectors, (m, k), orthonormal columns.
        s: singular values, (k,), none of them numerically zero.
        v: right vectors, (n, k).
    """

    u: Tensor
    s: Tensor
    v: Tensor

    def matrix(self) -> Tensor:
        """Returns the product, (m, n)."""
        return (self.u * self.s) @ self.v.T


def svd(matrix: Tensor, most: int | None = None, *, least: float = 0.0, exact: bool = False) -> Svd:
    """Returns the singular triplets of a matrix (m, n), without numerically null directions.

    Args:
        matrix: float32 or float64.
        most: how many of the largest to return; all if None.
        least: values up to this one are null too: what a difference of larger matrices cannot tell from none.
        exact: take the library's SVD also where a shortcut exists.
    """
    m, n = matrix.shape
    most = min(m, n) if most is None else max(0, min(most, m, n))
    if most == 0:
        return Svd(matrix.new_zeros(m, 0), matrix.new_zeros(0), matrix.new_zeros(n, 0))
    if exact or matrix.dtype == torch.float64:
        return _plain(matrix, most, least)
    if m < n:
        turned = svd(matrix.T, most, least=least)
        return Svd(turned.v, turned.s, turned.u)
    values, vectors = _eigen(gram(matrix))
    s = values[:most].clamp(min=0).sqrt()
    kept = _kept(s, matrix, least)
    s, v = s[:kept], vectors[:, :kept]
    return Svd(times(matrix, v / s).to(matrix.dtype), s.to(matrix.dtype), v.to(matrix.dtype))


def polar(matrix: Tensor, *, exact: bool = False) -> Tensor:
    """Returns the nearest matrix with orthonormal columns (rows if m < n): U V^T over the directions that are not null.

    Its error is that of `svd`. Source: Higham, Computing the Polar Decomposition, 1986.
    """
    m, n = matrix.shape
    if exact or matrix.dtype == torch.float64:
        found = svd(matrix, exact=True)
        return found.u @ found.v.T
    if m < n:
        return polar(matrix.T).T
    return times(matrix, inverse_root(gram(matrix), matrix)).to(matrix.dtype)


def isotropic(matrix: Tensor, *, exact: bool = False) -> Tensor:
    """Returns the matrix (m, n) with all min(m, n) singular values replaced by their mean; null ones stay null."""
    m, n = matrix.shape
    if exact or matrix.dtype == torch.float64:
        found = svd(matrix, exact=True)
        return found.s.sum() / max(1, min(m, n)) * (found.u @ found.v.T)
    if m < n:
        return isotropic(matrix.T).T
    values, vectors = _eigen(gram(matrix))
    s = values.clamp(min=0).sqrt()
    kept = _kept(s, matrix)
    root = (vectors[:, :kept] / s[:kept]) @ vectors[:, :kept].T
    return times(matrix, s[:kept].sum() / max(1, n) * root).to(matrix.dtype)


def inverse_root(grams: Tensor, of: Tensor) -> Tensor:
    """Returns (A^T A)^(-1/2) from A^T A, (n, n) float64, on the directions that are not null in A = `of`."""
    values, vectors = _eigen(grams)
    s = values.clamp(min=0).sqrt()
    kept = _kept(s, of)
    return (vectors[:, :kept] / s[:kept]) @ vectors[:, :kept].T


def procrustes(moving: Tensor, fixed: Tensor, *, exact: bool = False) -> Tensor:
    """Returns the orthogonal (n, n) matrix R that brings moving @ R nearest to fixed, both (m, n).

    Where moving^T fixed has null directions, R is no full rotation: it leaves them out.
    Source: Schoenemann, A generalized solution of the orthogonal Procrustes problem, 1966.
    """
    return polar(moving.T @ fixed, exact=exact)


def effective_rank(s: Tensor) -> float:
    """Returns how many directions a spectrum (k,) is spread over: exp of the entropy of s / sum(s); 0 of nothing.

    Source: Roy and Vetterli, The effective rank, 2007.
    """
    total = float(s.double().sum())
    if total == 0:
        return 0.0
    shares = s.double() / total
    return float(torch.special.entr(shares).sum().exp())


def gram(matrix: Tensor) -> Tensor:
    """Returns A^T A, (n, n) in float64, of a matrix (m, n); symmetric to the last bit."""
    n = matrix.shape[1]
    edges = [n * at // _BLOCKS for at in range(_BLOCKS + 1)]
    out = torch.zeros(n, n, dtype=torch.float64, device=matrix.device)
    for rows in matrix.split(_ROWS):
        wide = rows.double()
        for start, stop in pairwise(edges):
            out[start:stop, start:] += wide[:, start:stop].T @ wide[:, start:]
    upper = out.triu()
    return upper + out.triu(1).T


def times(matrix: Tensor, right: Tensor) -> Tensor:
    """Returns A @ B in float64 without a float64 copy of all of A: (m, n), (n, k) -> (m, k)."""
    return torch.cat([rows.double() @ right for rows in matrix.split(_ROWS)])


def _plain(matrix: Tensor, most: int, least: float) -> Svd:
    m, n = matrix.shape
    if not bool(matrix.isfinite().all()):
        nan = float("nan")
        return Svd(matrix.new_full((m, most), nan), matrix.new_full((most,), nan), matrix.new_full((n, most), nan))
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    kept = _kept(s[:most], matrix, least)
    return Svd(u[:, :kept], s[:kept], vt[:kept].T)


def _eigen(grams: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of a symmetric matrix, the largest first, and vectors as columns; NaN where it is not finite."""
    if not bool(grams.isfinite().all()):
        return grams.new_full((len(grams),), float("nan")), torch.full_like(grams, float("nan"))
    values, vectors = torch.linalg.eigh(grams)
    return values.flip(0), vectors.flip(1)


def _kept(s: Tensor, matrix: Tensor, least: float = 0.0) -> int:
    """How many of the leading singular values are not numerically zero in a matrix of this dtype and shape."""
    if not len(s):
        return 0
    least = max(least, float(s[0]) * torch.finfo(matrix.dtype).eps * max(matrix.shape))
    return int((~(s <= least)).sum())  # a NaN is kept, so that it is seen
