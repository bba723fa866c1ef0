"""Symmetric matrices kept as their upper triangles: half the bytes on disk."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def pack(square: Floats) -> Floats:
    """Returns the upper triangles of symmetric matrices, row by row: (..., d, d) -> (..., d (d + 1) / 2)."""
    width = square.shape[-1]
    out = np.empty((*square.shape[:-2], width * (width + 1) // 2), square.dtype)
    at = 0
    for row in range(width):
        out[..., at : at + width - row] = square[..., row, row:]
        at += width - row
    return out


def unpack(packed: Floats, width: int) -> Floats:
    """Returns the symmetric matrices that `pack` packed: (..., d (d + 1) / 2) -> (..., d, d)."""
    out = np.empty((*packed.shape[:-1], width, width), packed.dtype)
    at = 0
    for row in range(width):
        out[..., row, row:] = packed[..., at : at + width - row]
        out[..., row:, row] = out[..., row, row:]
        at += width - row
    return out
