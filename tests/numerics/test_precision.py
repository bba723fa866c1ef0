from typing import Any

import numpy as np
import pytest
import torch

from eutectic.numerics.draw import Key
from eutectic.numerics.kernels import CODES, Rows
from eutectic.numerics.precision import round_to, widen
from tests.make.memory import NAMES, TORCH, to_bytes


def rows(*tensors: torch.Tensor, double: bool = False) -> Rows:
    """Returns tensors as one slice, base first."""
    parts = [np.concatenate([raw, np.zeros(-len(raw) % 8, np.uint8)]) for raw in map(to_bytes, tensors)]
    offsets = np.cumsum([0, *(len(part) for part in parts[:-1])])
    codes = np.array([CODES[NAMES[tensor.dtype]] for tensor in tensors])
    models = np.zeros(len(tensors) - 1, np.bool_)
    return Rows(np.concatenate(parts), offsets, codes, models, True, 0, tensors[0].numel(), Key(0, "w"), double)


@pytest.mark.parametrize("double", [False, True])
def test_widen(double: bool) -> None:
    """Rows of every stored type arrive flat, in work precision, base first."""
    stored = [torch.tensor([1.5, -0.25, float("inf")], dtype=dtype) * scale for scale, dtype in enumerate(NAMES, 1)]
    read = widen(rows(*stored, double=double), "cpu")
    work = torch.float64 if double else torch.float32
    assert [each.dtype for each in read] == [work] * 4
    assert all(torch.equal(each, tensor.to(work)) for each, tensor in zip(read, stored, strict=True))


def test_widened_rows_are_not_the_buffer() -> None:
    """A method may not write into what was read: rows of the work type are seen, others are copies."""
    slice_ = rows(torch.ones(4, dtype=torch.bfloat16), torch.ones(4, dtype=torch.bfloat16))
    widen(slice_, "cpu")[0].zero_()
    assert (widen(slice_, "cpu")[0] == 1).all()


@pytest.mark.parametrize("dtype", TORCH)
def test_no_elements(dtype: str) -> None:
    """A tensor without elements is read and written like any other."""
    nothing = torch.empty(0, dtype=TORCH[dtype])
    assert [len(row) for row in widen(rows(nothing, nothing), "cpu")] == [0, 0]
    assert round_to(torch.empty(0, 3), dtype, np.empty(0, np.uint8)) == 0


def stored(values: torch.Tensor, dtype: str) -> tuple[torch.Tensor, int]:
    """Returns what `round_to` writes and counts."""
    out = np.zeros(values.numel() * TORCH[dtype].itemsize, np.uint8)
    bad = round_to(values, dtype, out)
    return torch.from_numpy(out).view(TORCH[dtype]), bad


def test_round_by_hand() -> None:
    """A bfloat16 near 1 counts 1/128: halves of that go to the even neighbour."""
    values = torch.tensor([[1 + 1 / 256, 1 + 3 / 256], [1 + 1 / 256 + 1e-6, -0.0]])
    found, bad = stored(values, "BF16")
    assert found.tolist() == [1.0, 1 + 2 / 128, 1 + 1 / 128, 0.0]
    assert found.signbit().tolist() == [False, False, False, True]
    assert bad == 0


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize("sign", [1, -1])
def test_doubles_are_rounded_once(dtype: str, sign: int) -> None:
    """Just above a midpoint goes away from zero, though rounding to float32 first would give the midpoint."""
    step = torch.finfo(TORCH[dtype]).eps
    values = sign * torch.tensor(
        [1 + step / 2, 1 + step / 2 + 2.0**-45, 1 + 1.5 * step - 2.0**-45], dtype=torch.float64
    )
    assert stored(values, dtype)[0].tolist() == [sign, sign * (1 + step), sign * (1 + step)]


COUNTED: dict[str, tuple[list[float], int]] = {
    "F64": ([1e300, 1e39, 1e5], 0),
    "F32": ([1e300, 1e39, 1e5], 2),
    "BF16": ([1e300, 3.4e38, 1e5], 2),
    "F16": ([1e300, 1e39, 65519.9, 65520.0], 3),
}


@pytest.mark.parametrize("dtype", COUNTED)
def test_what_becomes_infinite_is_counted(dtype: str) -> None:
    """Numbers too large for the stored type are lost as surely as infinite ones."""
    values: list[Any] = [*COUNTED[dtype][0], float("nan"), -float("inf")]
    found, bad = stored(torch.tensor(values, dtype=torch.float64), dtype)
    assert bad == COUNTED[dtype][1] + 2 == int((~found.isfinite()).sum())
