"""Square blocks along a diagonal: rows multiplied with them, in any range, and inverses and products of the blocks.

Loops of a fixed order: a library's results depend on how many threads it uses.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Wide = NDArray[np.float32] | NDArray[np.float64]
_TILE = 128


def turned_into(rows: Wide, blocks: NDArray[np.float64], first: int, out: Wide) -> None:
    """Fills `out` with elements `first, first + 1, ...` of the flattened `rows @ block_diag(blocks)`.

    Sums are float64 over a block's channels in rising order, and rounded once, so an element depends on its own row and
    block alone.

    Args:
        rows: (m, width), C-contiguous.
        blocks: (width / b, b, b), or (1, b, b) for the same block everywhere.
        first: index of the first element.
        out: one axis, contiguous, of the rows' dtype.

    Raises:
        ValueError: when the blocks do not fit the rows, or the range leaves them.
    """
    size = blocks.shape[1]
    if blocks.shape[2] != size or rows.shape[1] % size or blocks.shape[0] not in (1, rows.shape[1] // size):
        raise ValueError(f"blocks of shape {blocks.shape} do not fit rows of shape {rows.shape}")
    if first < 0 or first + out.size > rows.size:
        raise ValueError(f"elements {first}..{first + out.size} leave rows of shape {rows.shape}")
    if out.size:
        _turn(rows, blocks, first, out)


@njit(cache=True, nogil=True, error_model="numpy")
def _turn(rows, blocks, first, out):  # type: ignore[no-untyped-def]
    width, size, shared = rows.shape[1], blocks.shape[1], blocks.shape[0] == 1
    made = np.empty(size, np.float64)
    at, stop = first, first + out.size
    while at < stop:
        row, column = at // width, at % width
        block = column // size
        start = row * width + block * size
        turn = blocks[0] if shared else blocks[block]
        made[:] = 0.0
        for i in range(size):
            value = np.float64(rows[row, block * size + i])
            for j in range(size):
                made[j] += value * turn[i, j]
        last = min(stop, start + size)
        for each in range(at, last):
            out[each - first] = made[each - start]
        at = last


def inverse_beside_one(generators: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns (I + Q)^-1 of skew matrices Q, (blocks, b, b): by the same operations in the same order on any machine.

    Gauss-Jordan elimination needs no pivoting here: what is left after each step is again a positive part, of I at
    least, and a skew one, so no pivot is below 1.
    """
    made = generators + np.eye(generators.shape[1])
    _invert(made)
    return made


@njit(cache=True, nogil=True, error_model="numpy")
def _invert(matrices):  # type: ignore[no-untyped-def]
    blocks, size = matrices.shape[0], matrices.shape[1]
    for block in range(blocks):
        matrix = matrices[block]
        for k in range(size):
            pivot = 1.0 / matrix[k, k]
            matrix[k, k] = 1.0
            for j in range(size):
                matrix[k, j] *= pivot
            for i in range(size):
                if i != k:
                    factor = matrix[i, k]
                    matrix[i, k] = 0.0
                    for j in range(size):
                        matrix[i, j] -= factor * matrix[k, j]


def products(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the products of square matrices, (blocks, b, b), with sums in rising order on any machine."""
    out = np.zeros_like(left)
    _multiply(left, right, out)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _multiply(left, right, out):  # type: ignore[no-untyped-def]
    blocks, size = out.shape[0], out.shape[1]
    for block in range(blocks):
        for top in range(0, size, _TILE):  # so that what is multiplied with stays in a core's cache
            for side in range(0, size, _TILE):
                end = min(size, side + _TILE)
                for i in range(size):
                    into = out[block, i, side:end]
                    for k in range(top, min(size, top + _TILE)):
                        factor, row = left[block, i, k], right[block, k, side:end]
                        for j in range(into.size):
                            into[j] += factor * row[j]
