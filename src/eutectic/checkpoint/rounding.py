"""Float types into each other on raw bytes, rounded once, to nearest even; without torch."""

import numpy as np
from numpy.typing import NDArray

from eutectic.checkpoint.source import Buffer
from eutectic.checkpoint.spec import DType

Floats = NDArray[np.float64] | NDArray[np.float32] | NDArray[np.float16]

_NUMPY: dict[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def convert(raw: Buffer, source: DType, target: DType) -> Buffer:
    """Returns the bytes of the same values in another float type; NaN stays NaN, what is too large becomes infinite."""
    values: Floats
    if source.name == "BF16":
        values = _from_bfloat16(raw)
    else:
        values = raw.view(_NUMPY[source.name])
    if target.name == "BF16":
        return _to_bfloat16(values).view(np.uint8)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.ascontiguousarray(values.astype(_NUMPY[target.name])).view(np.uint8)


def _from_bfloat16(raw: Buffer) -> NDArray[np.float32]:
    # A bfloat16 is the upper half of the float32 of the same value.
    return (raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def _to_bfloat16(values: Floats) -> NDArray[np.uint16]:
    bits = _to_odd_float32(values).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)  # rounding could carry a NaN into infinity or zero
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)


def _to_odd_float32(values: Floats) -> NDArray[np.float32]:
    """Returns float32 with doubles rounded to odd, so that rounding them once more is as rounding once."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        near: NDArray[np.float32] = values.astype(np.float32)
    if values.dtype != np.float64:
        return near
    back = near.astype(np.float64)
    # Rounding to nearest went one step too far from zero: the step back truncates; infinity steps to the largest.
    too_far = np.abs(back) > np.abs(values)
    truncated = (near.view(np.uint32) - too_far.astype(np.uint32)).view(np.float32)
    inexact = back != values
    odd = truncated.view(np.uint32) | inexact.astype(np.uint32)
    rounded: NDArray[np.float32] = odd.view(np.float32)
    return rounded
