"""Loading and rounding, bit pattern by bit pattern. What else the loops do is held to torch in tests/laws."""

from typing import Any

import numpy as np
import pytest
import torch

from eutectic.checkpoint.rounding import convert
from eutectic.checkpoint.spec import DTYPES
from eutectic.numerics import kernels
from eutectic.numerics.draw import Key
from eutectic.numerics.kernels import CODES, ITEMSIZE, Rows
from eutectic.numerics.stages import Combination
from tests.make.memory import TORCH

Array = np.ndarray[Any, Any]
EVERY = np.arange(1 << 16, dtype=np.uint32)


def through(raw: Array, dtype: str, out: str, double: bool) -> tuple[Array, int]:
    """Returns one model's bytes after 1.0 times each element, which is exact, and how many were counted as lost."""
    code, count = CODES[dtype], len(raw) // ITEMSIZE[CODES[dtype]]
    place = np.array([0]), np.array([code]), np.zeros(1, np.bool_)
    rows = Rows(raw, *place, False, 0, count, Key(0, "w"), double)
    found = np.zeros(count * ITEMSIZE[CODES[out]], np.uint8)
    return found, kernels.combine(rows, Combination((1.0,), "weights"), found, CODES[out])


def load(raw: Array, dtype: str, double: bool = False) -> Array:
    """Returns stored elements as the loops load them."""
    found, _ = through(raw, dtype, "F64" if double else "F32", double)
    wide: Array = found.view(np.float64 if double else np.float32)
    return wide


def store(values: Array, dtype: str) -> tuple[torch.Tensor, int]:
    """Returns work numbers as the loops store them, and how many they count as not finite."""
    double = values.dtype == np.float64
    found, bad = through(values.view(np.uint8), "F64" if double else "F32", dtype, double)
    return torch.from_numpy(found).view(TORCH[dtype]), bad


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors hold the same bits, the payload of NaNs aside."""
    sized = {8: torch.int64, 4: torch.int32, 2: torch.int16}[left.itemsize]
    apart = left.view(sized) != right.view(sized)
    return left.dtype == right.dtype and bool((~apart | (left.isnan() & right.isnan())).all())


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_every_half_loads_as_in_torch(dtype: str, double: bool) -> None:
    """All 65,536 patterns: normal, denormal, infinite and NaN."""
    raw = EVERY.astype(np.uint16).view(np.uint8)
    expected = torch.from_numpy(raw).view(TORCH[dtype]).to(torch.float64 if double else torch.float32)
    assert same(torch.from_numpy(load(raw, dtype, double)), expected)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_half_survives_a_round_trip(dtype: str) -> None:
    """What is loaded and stored again is the same bits; NaNs stay NaN and keep their sign."""
    raw = EVERY.astype(np.uint16).view(np.uint8)
    stored, bad = store(load(raw, dtype), dtype)
    original = torch.from_numpy(raw).view(TORCH[dtype])
    assert same(stored, original)
    assert bad == int((~original.isfinite()).sum())
    assert torch.equal(stored.signbit()[original.isnan()], original.signbit()[original.isnan()])


def singles() -> Array:
    """Returns float32 around every bfloat16, and around every midpoint between halves."""
    low = np.array([0, 1, 0x7FFE, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    around = ((EVERY[:, None] << np.uint32(16)) | low).reshape(-1).view(np.float32)
    half = EVERY[: 0x7C00 + 1].astype(np.uint16).view(np.float16).astype(np.float64)
    half[-1] = 65536.0  # where the next half would be: 65520 is the midpoint to infinity
    middle = ((half[1:] + half[:-1]) / 2).astype(np.float32)  # exact: a half has 11 bits
    near = [
        middle,
        np.nextafter(middle, np.float32(0)),
        np.nextafter(middle, np.float32(np.inf)),
        half.astype(np.float32),
    ]
    return np.concatenate([around, *near, *(-each for each in near)])


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
def test_float32_rounds_as_in_torch(dtype: str) -> None:
    """Half-way cases to even, overflow to infinity, denormals in their own units; all that is not finite is counted."""
    values = singles()
    stored, bad = store(values, dtype)
    expected = torch.from_numpy(values).to(TORCH[dtype])
    assert same(stored, expected)
    assert bad == int((~expected.isfinite()).sum())


def doubles(dtype: str) -> Array:
    """Returns float64 at, just below and just above every midpoint between neighbours of a 16-bit type."""
    steps = EVERY[:0x8000].astype(np.uint16).view(np.uint8)
    values = torch.from_numpy(steps).view(TORCH[dtype]).double().numpy()
    values = np.unique(values[np.isfinite(values)])
    middle = (values[1:] + values[:-1]) / 2
    beside = [middle * (1 + 2.0**-50), middle * (1 - 2.0**-50), middle * (1 + 2.0**-24), middle, values]
    worst = np.array([np.inf, np.nan, 1e300, -1e300, 5e-324, 0.0, -0.0])
    return np.concatenate([*beside, *(-each for each in beside), worst])


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_float64_rounds_once(dtype: str) -> None:
    """A double just above a midpoint goes up, though as a float32 it would be the midpoint."""
    values = doubles(dtype)
    stored, bad = store(values, dtype)
    expected = torch.from_numpy(convert(values.view(np.uint8), DTYPES["F64"], DTYPES[dtype])).view(TORCH[dtype])
    assert same(stored, expected)
    assert bad == int((~expected.isfinite()).sum())


def test_float64_to_half_is_numpys() -> None:
    """Numpy rounds doubles to halves in one step."""
    values = doubles("F16")
    with np.errstate(over="ignore"):
        expected = torch.from_numpy(values.astype(np.float16))
    assert same(store(values, "F16")[0], expected)


@pytest.mark.parametrize("dtype", ["F32", "F64"])
def test_float64_to_wide_types(dtype: str) -> None:
    """Doubles too large for float32 become infinite there, and are counted."""
    values = np.array([1.0 + 2.0**-24, 1.0 + 2.0**-24 + 2.0**-50, 1e39, -1e39, 1e-320, np.nan, np.inf, -0.0])
    stored, bad = store(values, dtype)
    expected = torch.from_numpy(values).to(TORCH[dtype])
    assert same(stored, expected)
    assert bad == int((~expected.isfinite()).sum())


@pytest.mark.slow
def test_every_float32_rounds_as_in_torch() -> None:
    """All 2**32 patterns into both 16-bit types."""
    for high in range(1 << 8):
        bits = np.arange(high << 24, (high + 1) << 24, dtype=np.uint64).astype(np.uint32)
        values = bits.view(np.float32)
        for dtype in ("BF16", "F16"):
            assert same(store(values, dtype)[0], torch.from_numpy(values).to(TORCH[dtype]))
