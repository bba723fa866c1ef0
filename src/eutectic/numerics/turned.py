"""Rows times a matrix of square blocks along its diagonal: any range of it, with the same bits whatever the range."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Wide = NDArray[np.float32] | NDArray[np.float64]


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
