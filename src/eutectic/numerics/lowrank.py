"""Dense elements of a low-rank product, any range of them, with the same bits whatever the range.

The loops fix the order of every sum and never let the compiler reorder or contract it (no fastmath), so an element
depends on its row and column alone. Matrix products of a library do not promise that: they choose their blocking, and
with it their rounding, by the shape they are asked for.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: Columns per inner block: with rank 16 the block of A fills half of a 64 KiB share of the second-level cache.
_TILE = 512


def lowrank_into(b: Floats, a: Floats, scale: float, start: int, out: Floats) -> None:
    """Fills `out` with elements `start, start + 1, ...` of the flattened (row-major) matrix `scale * (b @ a)`.

    Each element is a float32 sum over the rank in rising order, then multiplied by `scale` rounded to float32. The
    transposed matrix `scale * (b @ a).T` is `lowrank_into(a.T, b.T, ...)` with both made contiguous, bit for bit: the
    products and their order are the same.

    Args:
        b: (d_out, r), C-contiguous.
        a: (r, d_in), C-contiguous.
        scale: the factor on the product.
        start: index of the first element.
        out: one axis, contiguous.

    Raises:
        ValueError: when the factors do not fit together or the range leaves the matrix.
    """
    if b.ndim != 2 or a.ndim != 2 or b.shape[1] != a.shape[0] or out.ndim != 1:
        raise ValueError(f"factors of shapes {b.shape} and {a.shape} do not fit an output of shape {out.shape}")
    if start < 0 or start + out.size > b.shape[0] * a.shape[1]:
        raise ValueError(f"elements {start}..{start + out.size} leave a matrix of {b.shape[0]} x {a.shape[1]}")
    if out.size:
        _fill(b, a, np.float32(scale), start, out)


def add_squares(
    values: NDArray[np.floating], start: int, columns: int, by_column: bool, sums: NDArray[np.float64]
) -> None:
    """Adds the squares of elements `start, start + 1, ...` of a flattened matrix to the sums of their rows or columns.

    Squares and sums are float64 and taken in index order, so that a matrix added range after range, from its start,
    gives the same bits whatever the ranges.

    Args:
        values: the elements, float32 or float64, one axis.
        start: index of the first element.
        columns: columns of the matrix.
        by_column: add per column instead of per row.
        sums: (rows,) or (columns,), changed in place.
    """
    if values.size:
        _squares(values, start, columns, by_column, sums)


@njit(cache=True, nogil=True, error_model="numpy")
def _row(weights, a, low, high, scale, row):  # type: ignore[no-untyped-def]
    # Four ranks a pass keep the running sum in a register; the order of additions is that of one rank a pass.
    # Rows of `a` are cut after they are taken: numba then knows that they are contiguous, and vectorises.
    rank = len(weights)
    n = len(row)
    for j in range(n):
        row[j] = np.float32(0)
    k = 0
    while k + 4 <= rank:
        w0, w1, w2, w3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        a0, a1, a2, a3 = a[k][low:high], a[k + 1][low:high], a[k + 2][low:high], a[k + 3][low:high]
        for j in range(n):
            row[j] = (((row[j] + w0 * a0[j]) + w1 * a1[j]) + w2 * a2[j]) + w3 * a3[j]
        k += 4
    while k < rank:
        w0, a0 = weights[k], a[k][low:high]
        for j in range(n):
            row[j] = row[j] + w0 * a0[j]
        k += 1
    for j in range(n):
        row[j] = row[j] * scale


@njit(cache=True, nogil=True, error_model="numpy")
def _fill(b, a, scale, start, out):  # type: ignore[no-untyped-def]
    columns = a.shape[1]
    stop = start + out.size
    for left in range(0, columns, _TILE):
        right = min(left + _TILE, columns)
        for i in range(start // columns, (stop - 1) // columns + 1):
            low = max(left, start - i * columns)
            high = min(right, stop - i * columns)
            if low < high:
                at = i * columns - start
                _row(b[i], a, low, high, scale, out[at + low : at + high])


@njit(cache=True, nogil=True, error_model="numpy")
def _squares(values, start, columns, by_column, sums):  # type: ignore[no-untyped-def]
    row, column = start // columns, start % columns
    for value in values:
        wide = np.float64(value)
        sums[column if by_column else row] += wide * wide
        column += 1
        if column == columns:
            row, column = row + 1, 0
