import math

import numpy as np
import pytest
import torch

from eutectic.methods import get
from eutectic.methods.model_stock import ratio
from tests.make.sites import merge, table

#: What an option gives up of the declared laws, for tests/laws/test_methods.py.
LAWS_ASIDE = {"floor": {"scale", "identity"}}  # a least product of norms is an absolute size

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
BASE = table([1, 1, 1], [1, 1, 1])


def stock(deltas: list[torch.Tensor], fused: bool = False, **values: object) -> torch.Tensor:
    """Returns the merged delta."""
    merged = merge(("model_stock", values), [BASE + delta for delta in deltas], BASE, fused=fused)
    return merged - BASE


@FUSED
def test_by_hand(fused: bool) -> None:
    """Deltas (1, 1, 0) and (1, 0, 1): cosine 1/2, t = 2 (1/2) / (1 + 1/2) = 2/3 of the mean (1, 1/2, 1/2)."""
    found = stock([table([1, 1, 0], [0, 0, 0]), table([1, 0, 1], [0, 0, 0])], fused)
    assert torch.allclose(found, table([2 / 3, 1 / 3, 1 / 3], [0, 0, 0]), atol=1e-6)


@FUSED
def test_extremes(fused: bool) -> None:
    """Equal models are kept (t = 1); at a right angle, or opposite, nothing moves (t = 0)."""
    one, other = table([2, 0, 0], [0, 0, 0]), table([0, 0, 2], [0, 0, 0])
    assert torch.equal(stock([one, one], fused), one)
    assert (stock([one, other], fused) == 0).all()
    assert (stock([one, -one], fused) == 0).all()
    assert (stock([0 * one, 0 * one], fused) == 0).all()


@FUSED
def test_wide_angles_go_backwards(fused: bool) -> None:
    """Cosine -1/2: t = -1 / (1 - 1/2) = -2; it is not cut off."""
    deltas = [table([1, 1, 0], [0, 0, 0]), table([-1, 0, 1], [0, 0, 0])]
    assert torch.allclose(stock(deltas, fused), -2 * sum(deltas, torch.zeros(2, 3)) / 2, atol=1e-6)


@FUSED
def test_three_models(fused: bool) -> None:
    """Cosines 1, 0, 0 have mean 1/3: t = 1 / (1 + 2/3) = 0.6. Angles 0, 90, 90 have mean 60: t = 1.5 / 2 = 0.75."""
    one, other = table([1, 0, 0], [0, 0, 0]), table([0, 1, 0], [0, 0, 0])
    mean = table([2 / 3, 1 / 3, 0], [0, 0, 0])
    assert torch.allclose(stock([one, one, other], fused), 0.6 * mean, atol=1e-6)
    assert torch.allclose(stock([one, one, other], fused, angle="angle"), 0.75 * mean, atol=1e-6)


@FUSED
def test_floor(fused: bool) -> None:
    """Norms of 1e-4 sqrt 2: the cosine is 1e-8 / 1e-6 = 0.01 by mergekit's floor, t = 0.02 / 1.01; 2/3 without it."""
    deltas = [1e-4 * table([1, 1, 0], [0, 0, 0]), 1e-4 * table([1, 0, 1], [0, 0, 0])]
    base, step = torch.zeros(2, 3), sum(deltas, torch.zeros(2, 3)) / 2
    for floor, t in ((1e-6, 0.02 / 1.01), (0.0, 2 / 3)):
        found = merge(("model_stock", {"floor": floor}), deltas, base, fused=fused)
        assert torch.allclose(found, t * step, rtol=1e-5)


def test_rows() -> None:
    """A ratio for each row: 2/3 of the first, and all of the second, where both agree."""
    found = stock([table([1, 1, 0], [3, 0, 0]), table([1, 0, 1], [3, 0, 0])], rows=True)
    assert torch.allclose(found, table([2 / 3, 1 / 3, 1 / 3], [3, 0, 0]), atol=1e-6)


@pytest.mark.parametrize("shape", [(), (3,), (0,), (4, 0), (0, 4), (2, 3, 4)], ids=str)
def test_rows_of_other_shapes(shape: tuple[int, ...]) -> None:
    """A vector or a number is one row; of more axes, the last runs along a row; none is a row of no elements."""
    source = torch.Generator().manual_seed(1)
    base, *models = (torch.randn(shape, generator=source) for _ in range(3))
    found = merge(("model_stock", {"rows": True}), models, base, fused=False)
    width = shape[-1] if shape else 1
    parts = [each.reshape(-1, width) if base.numel() else each for each in (base, *models)]
    if not base.numel():
        assert found.shape == shape
        return
    alone = [merge(("model_stock", {}), list(row[1:]), row[0], fused=False) for row in zip(*parts, strict=True)]
    assert torch.allclose(found.reshape(-1, width), torch.stack(alone), atol=1e-6)


def test_ratio_is_zero_where_it_is_not_defined() -> None:
    """Cosines that add up to -1 / (n - 1) would divide by nothing."""
    circle = np.array([[math.cos(2 * math.pi * (a - b) / 3) for b in range(3)] for a in range(3)])
    assert ratio(circle, "cosine", 0.0) == 0.0


def test_takes_two_or_more() -> None:
    """One model has no angle: such recipes are refused by this declaration."""
    assert str(get("model_stock").needs.models) == "at least 2"
