"""Between stored bytes and work precision in torch: widen once on reading, round once on writing."""

import numpy as np
from numpy.typing import NDArray

from eutectic.numerics.kernels import Rows
from eutectic.numerics.tensors import Tensor, torch

#: torch's name of each stored type, by the code that kernels use, and numpy's type of its size: torch cannot view no
#: bytes at all as elements.
_TORCH = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_STORED = ("float64", "float32", "float16", "bfloat16")
_SIZED = {8: np.float64, 4: np.float32, 2: np.int16}


def widen(rows: Rows, device: str) -> list[Tensor]:
    """Returns each row of a slice as a flat tensor in work precision on the device, base first."""
    work = torch.float64 if rows.double else torch.float32
    read = []
    for offset, code in zip(rows.offsets.tolist(), rows.codes.tolist(), strict=True):
        stored: torch.dtype = getattr(torch, _STORED[code])
        data = _view(rows.raw[offset : offset + rows.count * stored.itemsize], stored)
        read.append(data.to(device=device, dtype=work))
    return read


def round_to(values: Tensor, dtype: str, out: NDArray[np.uint8]) -> int:
    """Writes values to `out` in a stored type, rounded once, to nearest even.

    Returns:
        How many are NaN or infinite there; what is too large for the stored type becomes infinite.
    """
    stored: torch.dtype = getattr(torch, _TORCH[dtype])
    flat = values.reshape(-1).cpu()
    if flat.dtype == torch.float64 and stored.itemsize == 2:
        flat = _to_odd_float32(flat)
    flat = flat.to(stored)
    _view(out, stored).copy_(flat)
    return int((~flat.isfinite()).sum())


def _view(raw: NDArray[np.uint8], stored: "torch.dtype") -> Tensor:
    """Returns bytes as elements of a stored type."""
    return torch.from_numpy(raw.view(_SIZED[stored.itemsize])).view(stored)


def _to_odd_float32(values: Tensor) -> Tensor:
    """Returns doubles as float32 rounded to odd, so that rounding them once more is as rounding once."""
    near = values.float()
    back = near.double()
    # Rounding to nearest went one step too far from zero: the step back truncates; infinity steps to the largest.
    truncated = near.view(torch.int32) - (back.abs() > values.abs()).int()
    return (truncated | (back != values).int()).view(torch.float32)
