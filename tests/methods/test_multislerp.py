import math

import pytest
import torch

from eutectic.errors import RecipeError
from tests.make.sites import merge, table

#: What an option gives up of the declared laws, for tests/laws/test_methods.py.
LAWS_ASIDE = {
    "normalize": {"fixed_point", "identity"},  # weights that add up to 3 give three times the model
    "eps": {"fixed_point", "identity"},  # the result is shorter by cos(eps)
}

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
ONE, OTHER = table([3, 0, 0], [0, 0, 0]), table([0, 4, 0], [0, 0, 0])
BASE = table([1, 2, 3], [4, 5, 6])


def multislerp(models: list[torch.Tensor], fused: bool = False, **values: object) -> torch.Tensor:
    """Returns the mean of models, which is also that of deltas, less their base."""
    found = merge(("multislerp", values), models, fused=fused)
    moved = [BASE + model for model in models]
    around = merge(("multislerp", values | {"of": "deltas"}), moved, BASE, fused=fused) - BASE
    assert torch.allclose(found, around, atol=3e-6)
    return found


@FUSED
def test_by_hand(fused: bool) -> None:
    """Unit vectors e1 and e2, weights 1/2: direction (e1 + e2) / sqrt 2, length (3 + 4) / 2 = 3.5."""
    side = 3.5 / math.sqrt(2)
    assert torch.allclose(multislerp([ONE, OTHER], fused), table([side, side, 0], [0, 0, 0]), rtol=1e-6)


@FUSED
def test_weights(fused: bool) -> None:
    """Weights 3/4 and 1/4: direction (3 e1 + e2) / sqrt 10, length (9 + 4) / 4; not normalized, four times as long."""
    expected = 13 / 4 / math.sqrt(10) * table([3, 1, 0], [0, 0, 0])
    assert torch.allclose(multislerp([ONE, OTHER], fused, weight=(3.0, 1.0)), expected, rtol=1e-6)
    found = multislerp([ONE, OTHER], fused, weight=(3.0, 1.0), normalize=False)
    assert torch.allclose(found, 4 * expected, rtol=1e-6)


@FUSED
def test_eps(fused: bool) -> None:
    """Norms 3 and 4 with eps 1: units 3/4 e1 and 4/5 e2; cos 1 of the mean length 3.5 in their direction."""
    sides = torch.tensor([0.75, 0.8])
    first, second = (3.5 * math.cos(1) * sides / sides.norm()).tolist()
    # The mean direction is (0.375, 0.4), of length 0.548: with eps 1 it counts as none.
    assert torch.allclose(multislerp([ONE, OTHER], fused, eps=1.0), (ONE + OTHER) / 2)
    heavy = multislerp([ONE, OTHER], fused, eps=1.0, weight=(4.0, 4.0), normalize=False)
    assert torch.allclose(heavy, 8 * table([first, second, 0], [0, 0, 0]), rtol=1e-6)


@FUSED
@pytest.mark.parametrize("n", [2, 3, 4])
def test_no_direction(fused: bool, n: int) -> None:
    """Opposite models, or none that changed, have no mean direction: their weighted sum, which is zero here."""
    angles = [2 * math.pi * k / n for k in range(n)]
    around = [table([math.cos(angle), math.sin(angle), 0], [0, 0, 0]) for angle in angles]
    assert torch.allclose(multislerp(around, fused, eps=1e-6), torch.zeros(2, 3), atol=1e-6)
    assert (multislerp([0 * ONE] * n, fused) == 0).all()
    assert torch.allclose(multislerp([3 * ONE, -ONE], fused), ONE)  # (9 - 3) / 2 = 3


@FUSED
def test_one_model(fused: bool) -> None:
    """One model is what it is, whatever its weight."""
    assert torch.equal(merge(("multislerp", {"weight": (0.5,), "normalize": False}), [BASE], fused=fused), BASE)


@FUSED
def test_a_zero_among_others(fused: bool) -> None:
    """A zero tensor has no direction and its length counts: e1 at (3 + 0) / 2."""
    assert torch.allclose(multislerp([ONE, 0 * ONE], fused), ONE / 2)


def test_weights_that_cancel() -> None:
    """A sum of 0 cannot divide."""
    with pytest.raises(RecipeError, match="add up to 0"):
        merge(("multislerp", {"weight": (1.0, -1.0)}), [ONE, OTHER])


@FUSED
def test_infinity_stays_where_it_is(fused: bool) -> None:
    """With a norm that is not finite there are no directions: the weighted sum."""
    other = OTHER.clone()
    other[1, 2] = float("inf")
    assert torch.equal(merge(("multislerp", {}), [ONE, other], fused=fused), 0.5 * ONE + 0.5 * other)
