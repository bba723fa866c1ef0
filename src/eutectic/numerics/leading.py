"""The largest eigenvalues of a symmetric matrix that is known by what it does to vectors."""

from collections.abc import Callable
from typing import cast

from eutectic.numerics.tensors import Tensor, torch

#: Up to this size the matrix is formed and decomposed.
DENSE = 384
#: Vectors tried beside those that are wanted, and how many blocks of them are kept before they are compressed.
SPARE, BLOCKS = 6, 24
#: A vector is found when what the matrix makes of it is off its multiple by this part of the largest eigenvalue.
EXACT = 1e-9
#: Blocks tried before the matrix is formed after all.
MOST = 400


def leading(apply: Callable[[Tensor], Tensor], size: int, count: int) -> tuple[Tensor, Tensor]:
    """Returns the largest eigenvalues, signs counted, falling: (count,), and their vectors, (size, count), in float64.

    Small matrices are formed; of large ones a block Krylov space is built, orthogonal to the last bit, until the
    vectors are exact to 1e-9 of the largest eigenvalue. The first block is drawn from a fixed seed, so the result is a
    function of the matrix.

    Args:
        apply: multiplies the matrix, (size, size), with vectors, (size, k).
        size: of the matrix.
        count: how many are wanted; at most `size` are found.
    """
    count = min(count, size)
    if size <= DENSE or 4 * count >= size:
        return _formed(apply, size, count)
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(size, count + SPARE, generator=generator, dtype=torch.float64)
    block = torch.linalg.qr(block).Q
    basis, images = block[:, :0], block[:, :0]
    for _ in range(MOST):
        basis, images = torch.cat([basis, block], 1), torch.cat([images, apply(block)], 1)
        inside = basis.mT @ images
        values, turns = torch.linalg.eigh((inside + inside.mT) / 2)
        best = turns[:, -(count + SPARE) :].flip(1)
        found, theirs = values.flip(0)[: count + SPARE], images @ best
        vectors = basis @ best
        off = theirs - vectors * found
        if float(off[:, :count].norm(dim=0).max()) <= EXACT * float(values.abs().max()):
            return found[:count], vectors[:, :count]
        if basis.shape[1] >= BLOCKS * block.shape[1]:
            basis, images = vectors, theirs
        block = _beside(off, basis)
        if not block.shape[1]:  # the space holds all that the first block leads to
            return found[:count], vectors[:, :count]
    return _formed(apply, size, count)


def _formed(apply: Callable[[Tensor], Tensor], size: int, count: int) -> tuple[Tensor, Tensor]:
    matrix = apply(torch.eye(size, dtype=torch.float64))
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return values.flip(0)[:count], vectors.flip(1)[:, :count]


def _beside(block: Tensor, basis: Tensor) -> Tensor:
    """Returns orthonormal vectors that span a block with a basis, without the basis and what rounding made."""
    size = block.norm(dim=0)
    block = block[:, size > 0] / size[size > 0]
    for _ in range(2):
        block = block - basis @ (basis.mT @ block)
    found = torch.linalg.qr(block)
    block = found.Q[:, found.R.diagonal().abs() > 1e-10]
    left = torch.linalg.qr(block - basis @ (basis.mT @ block))
    return cast(Tensor, left.Q)
