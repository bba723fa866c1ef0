"""The algebra of low-rank updates in factored form: sums, norms, spectra and truncation without the dense product.

An update is `scale * b @ a`. The two factors are not unique: `(b R)(R^-1 a)` is the same update. Everything here but
`Factors` itself depends on the update alone. Small matrices (ranks by ranks) and decompositions are float64. Sums are
exact as concatenations; a truncation states its error.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from eutectic.numerics.tensors import Tensor, torch

#: A dense matrix whose shorter side is at most this is decomposed whole; larger ones from a random subspace.
_WHOLE = 512
#: The subspace is iterated until the rest it leaves shrinks by less than this share, at most so many times.
_SETTLED, _MOST_ITERATIONS = 1e-3, 8
#: Ranks gathered before their product is added to a dense sum: one large product costs less than many small ones.
_BATCH = 256


@dataclass(frozen=True, eq=False)
class Factors:
    """A low-rank update, `scale * b @ a`.

    Attributes:
        b: (d_out, r), float32 or float64.
        a: (r, d_in), of the same type.
        scale: the factor on the product (LoRA: alpha / r, or alpha / sqrt(r) with rsLoRA).
    """

    b: Tensor
    a: Tensor
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.b.dim() != 2 or self.a.dim() != 2 or self.b.shape[1] != self.a.shape[0]:
            raise ValueError(f"factors of shapes {tuple(self.b.shape)} and {tuple(self.a.shape)} do not fit")

    @property
    def rank(self) -> int:
        """Columns of `b`: what the update's rank is at most."""
        return self.b.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """The update's (d_out, d_in)."""
        return self.b.shape[0], self.a.shape[1]

    def scaled(self, factor: float) -> "Factors":
        """Returns the update times a number."""
        return replace(self, scale=self.scale * factor)

    def folded(self) -> "Factors":
        """Returns the same update with its scale in `b`, so that it is 1."""
        return self if self.scale == 1.0 else Factors(self.b * self.scale, self.a)

    def dense(self) -> Tensor:
        """Returns the update itself, (d_out, d_in): only for what cannot work on factors."""
        return (self.b @ self.a) * self.scale


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A singular value decomposition `u @ diag(s) @ vt` with descending `s`; float64.

    Attributes:
        u: (d_out, k), orthonormal columns.
        s: (k,).
        vt: (k, d_in), orthonormal rows.
        rest: norm of what the decomposition leaves out; 0 where it is complete.
    """

    u: Tensor
    s: Tensor
    vt: Tensor
    rest: float = 0.0

    @property
    def norm(self) -> float:
        """Frobenius norm of the matrix."""
        return math.hypot(float(torch.linalg.vector_norm(self.s)), self.rest)

    def tail(self, rank: int) -> float:
        """Returns the Frobenius norm of what the first `rank` parts leave out."""
        return math.hypot(float(torch.linalg.vector_norm(self.s[rank:])), self.rest)

    def rank_for(self, error: float) -> int:
        """Returns the least rank, at least 1, whose tail is at most `error` times the norm; all of it where none is."""
        bound = error * self.norm
        tails = self.s.square().flip(0).cumsum(0).flip(0)  # (k,), squared norm from i on
        within = (tails + self.rest**2).sqrt() <= bound
        found = int(within.nonzero()[0]) if bool(within.any()) else len(self.s)
        return max(1, found)

    def cut(self, rank: int) -> "Truncated":
        """Returns the first `rank` parts as factors, each taking the root of the singular values."""
        root = self.s[:rank].sqrt()
        factors = Factors(self.u[:, :rank] * root, root[:, None] * self.vt[:rank])
        return Truncated(factors, self.tail(rank), self.norm)


@dataclass(frozen=True, eq=False)
class Truncated:
    """An update of bounded rank, and what it left out.

    Attributes:
        factors: what was kept.
        error: Frobenius norm of what was not.
        norm: Frobenius norm of the whole.
    """

    factors: Factors
    error: float
    norm: float

    @property
    def relative(self) -> float:
        """The error as a share of the norm; 0 for an update of zero."""
        return self.error / self.norm if self.norm > 0 else 0.0


def add(parts: Sequence[Factors], weights: Sequence[float] | None = None) -> Factors:
    """Returns the sum of weight[i] * parts[i]: exact, the factors side by side, of the sum of the ranks.

    Raises:
        ValueError: when there are none, or shapes differ.
    """
    if not parts or len({part.shape for part in parts}) > 1:
        raise ValueError(f"expected updates of one shape, found {[part.shape for part in parts]}")
    each = [1.0] * len(parts) if weights is None else weights
    columns = [part.b * (part.scale * weight) for part, weight in zip(parts, each, strict=True)]
    return Factors(torch.cat(columns, 1), torch.cat([part.a for part in parts], 0))


def overlay(parts: Sequence[Tensor]) -> Tensor:
    """Adds tensors (r_i, ...) along the ranks that each has, the shorter filled with zeros: (max r_i, ...)."""
    found = torch.zeros_like(max(parts, key=len))
    for part in parts:
        found[: len(part)] += part
    return found


def inner(first: Factors, second: Factors) -> float:
    """Returns the inner product of two updates, the sum of their products element by element."""
    left = first.b.double().T @ second.b.double()  # (r, r')
    right = first.a.double() @ second.a.double().T  # (r, r')
    return first.scale * second.scale * float((left * right).sum())


def norm(update: Factors) -> float:
    """Returns the Frobenius norm of an update."""
    return math.sqrt(max(0.0, inner(update, update)))


def gram(parts: Sequence[Factors]) -> Tensor:
    """Returns all inner products of n updates: (n, n), float64."""
    found = torch.zeros(len(parts), len(parts), dtype=torch.float64)
    for i, first in enumerate(parts):
        for j, second in enumerate(parts[: i + 1]):
            found[i, j] = found[j, i] = inner(first, second)
    return found


def spectrum(update: Factors) -> Spectrum:
    """Returns the singular value decomposition of an update: QR of each factor, then of a small matrix.

    k is the least of rank, d_out and d_in. Costs (d_out + d_in) r^2 instead of d_out d_in min(d_out, d_in).
    """
    left, small_left = torch.linalg.qr(update.b.double() * update.scale)
    right, small_right = torch.linalg.qr(update.a.double().T)
    u, s, vt = torch.linalg.svd(small_left @ small_right.T, full_matrices=False)
    return Spectrum(left @ u, s, vt @ right.T)


def truncate(update: Factors, rank: int | None = None, error: float | None = None) -> Truncated:
    """Returns the nearest update of a rank, or of the least rank that is within a relative error.

    Args:
        update: the update.
        rank: the most it may have; its own rank bounds it as well.
        error: instead, the share of its norm that may be lost.
    """
    return _cut(spectrum(update), rank, error)


def compress(matrix: Tensor, rank: int | None = None, error: float | None = None) -> Truncated:
    """Returns the nearest low-rank update to a dense matrix (d_out, d_in), as `truncate`.

    A small matrix is decomposed whole. Of a large one a subspace is found by iteration from a fixed random start; the
    stated error is measured on the matrix itself, and exceeds the least possible one by about a thousandth at most.
    """
    least = min(matrix.shape)
    if least <= _WHOLE or (rank is not None and rank * 4 >= least):
        return _cut(_whole(matrix), rank, error)
    width = 32 if rank is None else rank + max(8, rank // 2)
    while True:
        found = _subspace(matrix, width, rank)
        if rank is not None or found.rest <= (error or 0.0) * found.norm:
            return _cut(found, rank, error)
        width *= 2
        if width * 4 >= least:
            return _cut(_whole(matrix), rank, error)


def total(parts: Iterable[tuple[Factors, float]], shape: tuple[int, int], most: int) -> Factors | Tensor:
    """Returns a weighted sum of any number of updates in bounded memory, holding few of them at once.

    It is factored, and exact, while the ranks add up to at most `most`. Beyond that it is the dense float32 matrix, to
    which products are added in order: its size and the work for one more update do not grow with their number.

    Args:
        parts: updates and weights.
        shape: their (d_out, d_in).
        most: the largest sum of ranks that stays factored.
    """
    held: list[Factors] = []
    dense: Tensor | None = None
    for update, weight in parts:
        held.append(update.scaled(weight).folded())
        ranks = sum(each.rank for each in held)
        if dense is None and ranks > most:
            dense = torch.zeros(shape)
        if dense is not None and ranks >= _BATCH:
            dense, held = _added(dense, held), []
    if dense is not None:
        return _added(dense, held) if held else dense
    return add(held) if held else Factors(torch.zeros(shape[0], 1), torch.zeros(1, shape[1]))


def _added(dense: Tensor, held: Sequence[Factors]) -> Tensor:
    joined = add(held)
    return dense.addmm_(joined.b.float(), joined.a.float())


def _cut(found: Spectrum, rank: int | None, error: float | None) -> Truncated:
    chosen = len(found.s) if error is None else found.rank_for(error)
    return found.cut(chosen if rank is None else min(rank, chosen))


def _whole(matrix: Tensor) -> Spectrum:
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    return Spectrum(u, s, vt)


def _subspace(matrix: Tensor, width: int, rank: int | None) -> Spectrum:
    """Finds the leading singular parts of a large matrix by subspace iteration from a fixed start."""
    source = torch.Generator().manual_seed(0)
    start = torch.randn(matrix.shape[1], width, generator=source, dtype=matrix.dtype)
    basis = torch.linalg.qr(matrix @ start)[0]  # (d_out, width)
    norm_squared = float(torch.linalg.vector_norm(matrix, dtype=torch.float64)) ** 2
    left = math.inf
    for last in range(_MOST_ITERATIONS):
        across, small = torch.linalg.qr((matrix.T @ basis).double())  # (d_in, width), (width, width)
        u, s, vt = torch.linalg.svd(small.T)
        before, left = left, norm_squared - float(s[:rank].square().sum())
        if before - left <= _SETTLED * max(left, 0.0) or last == _MOST_ITERATIONS - 1:
            break
        basis = torch.linalg.qr(matrix @ across.to(matrix.dtype))[0]
    found = Spectrum(basis.double() @ u, s, (across @ vt.T).T)
    return replace(found, rest=_residual(matrix, found))


def _residual(matrix: Tensor, found: Spectrum) -> float:
    """Measures what a decomposition leaves of a matrix, in rows that fit in a cache."""
    u, vt = (found.u * found.s).to(matrix.dtype), found.vt.to(matrix.dtype)
    rows = max(1, 2**20 // matrix.shape[1])
    parts = [matrix[at : at + rows] - u[at : at + rows] @ vt for at in range(0, len(matrix), rows)]
    return math.hypot(*(float(torch.linalg.vector_norm(part, dtype=torch.float64)) for part in parts))
