"""Between stored bytes and work precision in torch: widen once on reading, round once on writing."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eutectic.numerics.kernels import Rows

_TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_STORED = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
#: numpy's type of each stored type's size: torch cannot view no bytes at all as elements.
_SIZED = {torch.float64: np.float64, torch.float32: np.float32, torch.float16: np.int16, torch.bfloat16: np.int16}


def widen(rows: Rows, device: str) -> list[Tensor]:
    """Returns each row of a slice as a flat tensor in work precision on the device, base first."""
    work = torch.float64 if rows.double else torch.float32
    read = []
    for offset, code in zip(rows.offsets.tolist(), rows.codes.tolist(), strict=True):
        stored = _STORED[code]
        data = _view(rows.raw[offset : offset + rows.count * stored.itemsize], stored)
        read.append(data.to(device=device, dtype=work))
    return read


def round_to(values: Tensor, dtype: str, out: NDArray[np.uint8]) -> int:
    """Writes values to `out` in a stored type, rounded once, to nearest even.

    Returns:
        How many are NaN or infinite there; what is too large for the stored type becomes infinite.
    """
    stored = _TORCH[dtype]
    flat = values.reshape(-1).cpu()
    if flat.dtype == torch.float64 and stored.itemsize == 2:
        flat = _to_odd_float32(flat)
    flat = flat.to(stored)
    _view(out, stored).copy_(flat)
    return int((~flat.isfinite()).sum())


def _view(raw: NDArray[np.uint8], stored: torch.dtype) -> Tensor:
    """Returns bytes as elements of a stored type."""
    return torch.from_numpy(raw.view(_SIZED[stored])).view(stored)


def _to_odd_float32(values: Tensor) -> Tensor:
    """Returns doubles as float32 rounded to odd, so that rounding them once more is as rounding once."""
    near = values.float()
    back = near.double()
    # Rounding to nearest went one step too far from zero: the step back truncates; infinity steps to the largest.
    truncated = near.view(torch.int32) - (back.abs() > values.abs()).int()
    return (truncated | (back != values).int()).view(torch.float32)
