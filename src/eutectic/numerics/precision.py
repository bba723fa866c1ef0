"""Between stored bytes and work precision in torch: widen once on reading, round once on writing."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eutectic.numerics.kernels import Rows

_TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_STORED = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def widen(rows: Rows, device: str) -> list[Tensor]:
    """Returns each row of a slice as a flat tensor in work precision on the device, base first."""
    work = torch.float64 if rows.double else torch.float32
    read = []
    for offset, code in zip(rows.offsets.tolist(), rows.codes.tolist(), strict=True):
        stored = _STORED[code]
        data = torch.from_numpy(rows.raw[offset : offset + rows.count * stored.itemsize]).view(stored)
        read.append(data.to(device=device, dtype=work))
    return read


def round_to(values: Tensor, dtype: str, out: NDArray[np.uint8]) -> int:
    """Writes values to `out` in a stored type, rounded to nearest even.

    Returns:
        How many are NaN or infinite.
    """
    stored = _TORCH[dtype]
    bad = int((~values.isfinite()).sum())
    flat = values.reshape(-1).to(device="cpu", dtype=stored)
    torch.from_numpy(out).view(stored).copy_(flat)
    return bad
