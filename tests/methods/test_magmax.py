import pytest
import torch

from tests.make.sites import merge, table

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
BASE = table([1, 1, 1, 1])
DELTAS = (table([4, -1, 2, 0]), table([-3, 5, -2, 0]))


def magmax(fused: bool, **values: object) -> torch.Tensor:
    """Returns the merged delta of two models."""
    models = [BASE + delta for delta in DELTAS]
    return merge(("magmax", values), models, BASE, fused=fused, double=True, out="F64") - BASE


@FUSED
def test_by_hand(fused: bool) -> None:
    """4 beats -3, 5 beats -1, and of 2 and -2 the later is taken; half of each by default."""
    assert magmax(fused, scale=1.0).tolist() == [[4, 5, -2, 0]]
    assert magmax(fused).tolist() == [[2, 2.5, -1, 0]]


@FUSED
def test_weights_enter_the_comparison(fused: bool) -> None:
    """Halved, the second model's are -1.5, 2.5, -1: only 2.5 is the largest still."""
    assert magmax(fused, scale=1.0, weight=(1.0, 0.5)).tolist() == [[4, 2.5, 2, 0]]
    assert magmax(fused, scale=1.0, weight=(1.0, -1.0)).tolist() == [[4, -5, 2, 0]]


@FUSED
@pytest.mark.parametrize("at", [0, 1])
def test_a_nan_is_seen(fused: bool, at: int) -> None:
    """Whichever model it is of."""
    models = [BASE + delta for delta in DELTAS]
    models[at][0, 1] = float("nan")
    assert merge(("magmax", {}), models, BASE, fused=fused).isnan().tolist() == [[False, True, False, False]]
