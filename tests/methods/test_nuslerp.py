import math

import numpy as np
import pytest
import torch

from eutectic.methods import get
from eutectic.methods.nuslerp import coefficients
from tests.make.sites import merge, table

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
START = table([3, 0, 0], [0, 0, 0])
END = table([0, 4, 0], [0, 0, 0])
BASE = table([1, 2, 3], [4, 5, 6])


def nuslerp(start: torch.Tensor, end: torch.Tensor, fused: bool = False, **values: object) -> torch.Tensor:
    """Returns the point between two models, which is also that between two deltas, less their base."""
    found = merge(("nuslerp", values), [start, end], fused=fused)
    base = torch.arange(1.0, start.numel() + 1).reshape(start.shape)
    around = merge(("nuslerp", values | {"of": "deltas"}), [base + start, base + end], base, fused=fused) - base
    assert torch.allclose(found, around, atol=4e-6)
    return found


@FUSED
def test_by_hand(fused: bool) -> None:
    """Weights 2 to 1 at a right angle are t = 1/3: sin 60 of the start and sin 30 = 0.5 of the end."""
    expected = table([3 * math.sqrt(3) / 2, 2, 0], [0, 0, 0])
    assert torch.allclose(nuslerp(START, END, fused, weight=(2.0, 1.0)), expected, rtol=1e-6)
    assert torch.allclose(nuslerp(START, END, fused, weight=(0.5, 0.25)), expected, rtol=1e-6)


@FUSED
def test_weights_that_cancel(fused: bool) -> None:
    """A sum of 0 is half-way, as in mergekit: sin 45 of both."""
    expected = (START + END) * math.sqrt(0.5)
    assert torch.allclose(nuslerp(START, END, fused, weight=(1.0, -1.0)), expected, rtol=1e-6)


@FUSED
@pytest.mark.parametrize("turn", [1.0, 2.0, -1.0, -3.0])
def test_on_a_line(fused: bool, turn: float) -> None:
    """Equal, parallel and opposite models have no arc: 0.75 of the one and 0.25 of the other."""
    found = nuslerp(BASE, turn * BASE, fused, weight=(3.0, 1.0))
    assert torch.allclose(found, BASE * (0.75 + 0.25 * turn), rtol=1e-6, atol=1e-6)


@FUSED
def test_zero_has_no_direction(fused: bool) -> None:
    """A zero tensor counts as at a right angle to all: sin 45 of the other; two of them are zero."""
    assert torch.allclose(nuslerp(0 * END, END, fused), END * math.sqrt(0.5), rtol=1e-6)
    assert (nuslerp(0 * END, 0 * END, fused) == 0).all()


@FUSED
def test_infinity_stays_where_it_is(fused: bool) -> None:
    """With a norm that is not finite there is no angle: a line, which leaves the other elements usable."""
    end = END.clone()
    end[1, 2] = float("inf")
    assert torch.equal(merge(("nuslerp", {}), [START, end], fused=fused), 0.5 * START + 0.5 * end)


def test_rows_and_columns() -> None:
    """Each row, or each column, is an arc of its own: what tensors of that row alone give."""
    source = torch.Generator().manual_seed(0)
    start, end = (torch.randn(4, 5, generator=source) for _ in range(2))
    rows = [nuslerp(a[None], b[None], weight=(0.6, 0.4)) for a, b in zip(start, end, strict=True)]
    assert torch.allclose(nuslerp(start, end, weight=(0.6, 0.4), scope="row"), torch.cat(rows), rtol=1e-5, atol=1e-6)
    by_column = nuslerp(start, end, weight=(0.6, 0.4), scope="column")
    assert torch.allclose(by_column, nuslerp(start.T, end.T, weight=(0.6, 0.4), scope="row").T, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(by_column, torch.cat(rows), atol=1e-2)


@pytest.mark.parametrize("scope", ["row", "column"])
@pytest.mark.parametrize("shape", [(), (3,), (0,), (4, 0), (0, 4), (2, 3, 4)], ids=str)
def test_other_shapes(scope: str, shape: tuple[int, ...]) -> None:
    """A vector or a number is one row and one column; more axes and empty ones do no harm."""
    source = torch.Generator().manual_seed(1)
    start, end = (torch.randn(shape, generator=source) for _ in range(2))
    found = merge(("nuslerp", {"scope": scope}), [start, end])
    assert found.shape == shape
    if len(shape) < 2:
        assert torch.allclose(found, merge(("nuslerp", {}), [start, end]), atol=1e-6)


def test_a_line_is_where_float32_sees_one() -> None:
    """In float32 -1 + 1e-8 is -1 and -1 + 1e-7 is not: of these cosines the one is a line, the other a wide turn."""
    line, arc = (coefficients(*map(np.float64, (1.0, 1.0, -1 + short)), 0.5)[0] for short in (1e-8, 1e-7))
    assert line == 0.5
    assert arc > 1000


def test_takes_two() -> None:
    """It is an arc between two models."""
    assert str(get("nuslerp").needs.models) == "exactly 2"
