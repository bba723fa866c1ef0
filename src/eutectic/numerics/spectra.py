"""Singular vectors, polar factors and ranks of one matrix, each by the cheapest way whose error is stated.

Four ways lead to the singular vectors of a matrix A (m, n):

- *plain*: the library's SVD, in the matrix's own precision.
- *Gram*: the eigenvectors of A^T A (or A A^T, whichever is smaller) in float64, at a fraction of the cost. It squares
  the spread of the singular values: with a unit roundoff e, s_i comes out with a relative error of about
  e (s_1 / s_i)^2.
- *quick*: of 256 columns and more, for the leading half of the directions at most, and where the last of these has
  s_k >= 0.01 s_1: the Gram matrix in float32, after which values and vectors are made of A itself. What is left is a
  mixture of the last directions kept with the first that are not, of 1e-7 s_1^2 / (s_i^2 - s_j^2).
- *low rank*: when a sketch of A shows that few directions hold all of it, as the deltas of adapters, those directions
  are split off by QR, and the Gram way is taken in them.

float32 matrices go the last three ways: low rank where it serves, else quick, else Gram (e = 1e-16). Directions with
s_i <= 4 eps32 s_1, which rounding to float32 alone may have made, are dropped: at this edge the Gram way's error is
5e-4 of the value, and it falls with the square of the distance. What the low-rank way leaves out is at most
16 eps32 |A| in the Frobenius norm. float64 matrices, and those whose caller asks for `exact`, go the plain way, whose
own rounding makes directions of up to 16 eps s_1, which go too.

A NaN or infinity anywhere makes every number of the result NaN; nothing raises. Nothing here starts threads.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from eutectic.numerics.draw import Key
from eutectic.numerics.tensors import Tensor, torch

#: Singular values up to so many units of roundoff of the largest are none: of data rounded once, and of an algorithm
#: that rounds at every step.
_ROUNDED, _COMPUTED = 4, 16
#: Rows of a matrix that are widened to float64 at once.
_ROWS = 1024
#: A Gram matrix is made in so many column blocks; those below the diagonal are not computed.
_BLOCKS = 4
#: The quick way is for this many columns and more, and for squares of singular values down to this part of the largest.
_WIDE, _TOLD = 256, 1e-4
#: A sketch has this part of the smaller side's columns; it must have so many at least to be worth trying.
_SKETCH, _LEAST = 8, 16


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

    @property
    def matrix(self) -> Tensor:
        """The product, (m, n)."""
        return (self.u * self.s) @ self.v.T

    def above(self, least: float) -> "Svd":
        """Returns the triplets whose values are greater, or no numbers."""
        kept = int((~(self.s <= least)).sum())
        return Svd(self.u[:, :kept], self.s[:kept], self.v[:, :kept])

    def turned(self) -> "Svd":
        """Returns the triplets of the transposed matrix."""
        return Svd(self.v, self.s, self.u)


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
        return svd(matrix.T, most, least=least).turned()
    found = low_rank(matrix) or _quick(matrix, most) or _by_gram(matrix, most)
    kept = min(most, _kept(found.s, matrix, least))
    return Svd(found.u[:, :kept], found.s[:kept], found.v[:, :kept])


def polar(matrix: Tensor, *, least: float = 0.0, exact: bool = False) -> Tensor:
    """Returns the nearest matrix with orthonormal columns (rows if m < n): U V^T over the directions that are not null.

    Its error is that of `svd`. Source: Higham, Computing the Polar Decomposition, 1986.
    """
    return _reshaped(matrix, False, least, exact)


def isotropic(matrix: Tensor, *, least: float = 0.0, exact: bool = False) -> Tensor:
    """Returns the matrix (m, n) with all min(m, n) singular values replaced by their mean; null ones stay null."""
    return _reshaped(matrix, True, least, exact)


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
    return float(torch.special.entr(s.double() / total).sum().exp()) if total else 0.0


def low_rank(matrix: Tensor) -> Svd | None:
    """Returns all triplets of a float32 matrix whose rank is under an eighth of its smaller side; None if it is not.

    A sketch A Omega of that many columns, with signs for Omega, spans what A spans if A has no more directions; so the
    last columns of its QR are next to nothing, and A - Q Q^T A is measured before it is believed.
    Source: Halko, Martinsson and Tropp, Finding structure with randomness, 2011, arXiv:0909.4061, algorithm 4.1.
    """
    width = min(matrix.shape) // _SKETCH
    if width < _LEAST or not bool(matrix.isfinite().all()):
        return None
    signs = Key(0, "sketch").keep((0.5,), matrix.new_empty(1, matrix.shape[1], width))[0]
    sketch = matrix @ (2 * signs.to(matrix) - 1)
    q, r = torch.linalg.qr(sketch.double())
    eps, sizes = torch.finfo(matrix.dtype).eps, r.diagonal().abs()
    if float(sizes.min()) > 4 * _COMPUTED * eps * float(sizes.max()):
        return None
    inside = times(matrix.T, q).T  # (width, n)
    rest = float(matrix.double().square().sum() - inside.square().sum())
    if rest > (_COMPUTED * eps) ** 2 * float(inside.square().sum()):
        return None
    values, vectors = _eigen(inside @ inside.T)
    s = values.clamp(min=0).sqrt()
    kept = _kept(s, matrix)
    s, vectors = s[:kept], vectors[:, :kept]
    u, v = q @ vectors, inside.T @ (vectors / s)
    return Svd(u.to(matrix.dtype), s.to(matrix.dtype), v.to(matrix.dtype))


def gram(matrix: Tensor) -> Tensor:
    """Returns A^T A, (n, n) in float64, of a matrix (m, n); symmetric to the last bit."""
    n = matrix.shape[1]
    edges = [n * at // _BLOCKS for at in range(_BLOCKS + 1)]
    out = torch.zeros(n, n, dtype=torch.float64, device=matrix.device)
    for rows in torch.split(matrix, _ROWS):
        wide = rows.double()
        for start, stop in pairwise(edges):
            out[start:stop, start:] += wide[:, start:stop].T @ wide[:, start:]
    return out.triu() + out.triu(1).T


def times(matrix: Tensor, right: Tensor) -> Tensor:
    """Returns A @ B in float64 without a float64 copy of all of A: (m, n), (n, k) -> (m, k)."""
    return torch.cat([rows.double() @ right for rows in torch.split(matrix, _ROWS)])


def _reshaped(matrix: Tensor, level: bool, least: float, exact: bool) -> Tensor:
    """U V^T, times the mean of all min(m, n) singular values if `level`."""
    m, n = matrix.shape
    if m < n:
        return _reshaped(matrix.T, level, least, exact).T
    plain = exact or matrix.dtype == torch.float64
    found = svd(matrix, exact=True) if plain else low_rank(matrix)
    if found is not None:
        found = found.above(least)
        mean = found.s.sum() / max(1, n) if level else 1.0
        return mean * (found.u @ found.v.T)
    values, vectors = _eigen(gram(matrix))
    s = values.clamp(min=0).sqrt()
    kept = _kept(s, matrix, least)
    s, vectors = s[:kept], vectors[:, :kept]
    mean = s.sum() / max(1, n) if level else 1.0
    return times(matrix, mean * (vectors / s) @ vectors.T).to(matrix.dtype)


def _quick(matrix: Tensor, most: int) -> Svd | None:
    """The leading triplets of a tall float32 matrix by its Gram matrix in float32; None where they are not accurate."""
    largest = float(matrix.abs().max()) if 2 * most <= matrix.shape[1] >= _WIDE else 0.0
    if not 0.0 < largest < math.inf:
        return None
    unit = 2.0 ** math.frexp(largest)[1]  # so that no square overflows or vanishes
    scaled = matrix / unit
    values, vectors = torch.linalg.eigh(scaled.T @ scaled)
    if not float(values[-most]) >= _TOLD * float(values[-1]):
        return None
    leading = vectors[:, -most:]
    images = (scaled @ leading).double()
    values, turns = _eigen(images.T @ images)
    s = values.clamp(min=0).sqrt()
    u, v = images @ (turns / s), leading.double() @ turns
    return Svd(u.to(matrix.dtype), (s * unit).to(matrix.dtype), v.to(matrix.dtype))


def _by_gram(matrix: Tensor, most: int) -> Svd:
    """The leading triplets of a tall matrix."""
    values, vectors = _eigen(gram(matrix))
    s, v = values[:most].clamp(min=0).sqrt(), vectors[:, :most]
    kept = _kept(s, matrix)
    u = times(matrix, v[:, :kept] / s[:kept])
    return Svd(u.to(matrix.dtype), s[:kept].to(matrix.dtype), v[:, :kept].to(matrix.dtype))


def _plain(matrix: Tensor, most: int, least: float) -> Svd:
    m, n = matrix.shape
    if not bool(matrix.isfinite().all()):
        nan = float("nan")
        return Svd(matrix.new_full((m, most), nan), matrix.new_full((most,), nan), matrix.new_full((n, most), nan))
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    kept = _kept(s[:most], matrix, least, _COMPUTED)
    return Svd(u[:, :kept], s[:kept], vt[:kept].T)


def _eigen(grams: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of a symmetric matrix, the largest first, and vectors as columns; NaN where it is not finite."""
    if not bool(grams.isfinite().all()):
        return grams.new_full((len(grams),), float("nan")), torch.full_like(grams, float("nan"))
    values, vectors = torch.linalg.eigh(grams)
    return values.flip(0), vectors.flip(1)


def _kept(s: Tensor, matrix: Tensor, least: float = 0.0, units: int = _ROUNDED) -> int:
    """How many of the leading singular values are not numerically zero in a matrix of this dtype and shape."""
    if not len(s):
        return 0
    least = max(least, float(s[0]) * units * torch.finfo(matrix.dtype).eps)
    return int((~(s <= least)).sum())  # a NaN is kept, so that it is seen
