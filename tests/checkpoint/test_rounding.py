import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eutectic.checkpoint.rounding import convert
from eutectic.checkpoint.spec import DTYPES

TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SPECIAL = [
    0.0,
    -0.0,
    float("inf"),
    -float("inf"),
    float("nan"),
    1e-320,
    1e-45,
    1e-40,
    65504.0,
    65520.0,
    1e39,
    3.4e38,
    1e308,
]


def raw(values: torch.Tensor) -> np.ndarray:
    """Returns the bytes of a tensor."""
    return values.contiguous().view(torch.uint8).numpy()


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(TORCH, 2)))
def test_conversions_are_those_of_torch(source: str, target: str) -> None:
    """Every pair of types, on special values and on 16,384 random bit patterns; torch's double rounding apart."""
    random = np.random.default_rng(0).integers(0, 256, 16_384 * DTYPES[source].bits // 8, np.uint8)
    values = torch.cat([torch.tensor(SPECIAL).to(TORCH[source]), torch.from_numpy(random).view(TORCH[source])])
    got = torch.from_numpy(convert(raw(values), DTYPES[source], DTYPES[target])).view(TORCH[target])
    expected = values.to(TORCH[target])
    assert torch.equal(got.isnan(), values.isnan())
    same = (got == expected) & (got.signbit() == expected.signbit()) | got.isnan()
    if source == "F64" and target in ("F16", "BF16"):  # torch rounds these through float32
        assert same.double().mean() > 0.999
    else:
        assert same.all()


@given(st.integers(0x0001, 0x7F7E), st.sampled_from([-1, 0, 1]))
def test_halfway_doubles_are_rounded_once(bits: int, step: int) -> None:
    """A double just above or below the middle of two bfloat16 goes to its own side; the middle itself to even."""
    pair = torch.tensor([bits, bits + 1], dtype=torch.int16).view(torch.bfloat16).double()
    middle = float(pair.sum() / 2)
    value = np.nextafter(middle, step * np.inf) if step else middle
    got = convert(np.array([value]).view(np.uint8), DTYPES["F64"], DTYPES["BF16"]).view(np.uint16)[0]
    expected = bits if step < 0 else bits + 1 if step > 0 else bits + bits % 2
    assert got == expected
