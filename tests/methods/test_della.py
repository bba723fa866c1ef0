import math

import pytest
import torch

from eutectic.errors import RecipeError
from eutectic.numerics.draw import Key
from tests.make.sites import merge, table

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
DELTA = table([4, -8, 2], [1, 16, -2])
BASE = torch.zeros(2, 3)
#: Chances stay between 0 and 1 only where epsilon is smaller than the densities that the laws try.
TRIED = {"epsilon": [(0.0, 0.125, 0.0625), 0.25]}
#: Ranks in the rows, from 0; and what density 0.5 and epsilon 0.25 give them: 0.25, 0.5 and 0.75.
CHANCES = torch.tensor([[0.5, 0.75, 0.25], [0.25, 0.75, 0.5]])


def della(fused: bool, delta: torch.Tensor = DELTA, seed: int = 0, **values: object) -> torch.Tensor:
    """Returns what is left of one model's deltas."""
    chain = [("della", values), ("task_arithmetic", {})]
    return merge(chain, [delta], torch.zeros_like(delta), fused=fused, seed=seed, double=True, out="F64")


def kept(seed: int) -> torch.Tensor:
    """Which elements draw less than their chance, of 2**32."""
    return Key(seed, "w").draws(1, DELTA[None])[0] < (CHANCES.double() * 2**32).long()


@FUSED
@pytest.mark.parametrize("seed", range(5))
def test_by_hand(fused: bool, seed: int) -> None:
    """The smallest of three in a row is kept with 0.5 - 0.25 and times 4, the middle one with 0.5 and times 2, ..."""
    expected = torch.where(kept(seed), DELTA.double() / CHANCES.double(), 0.0)
    assert torch.equal(della(fused, seed=seed, density=0.5, epsilon=0.25), expected)
    plain = della(fused, seed=seed, density=0.5, epsilon=0.25, rescale="none")
    assert torch.equal(plain, torch.where(kept(seed), DELTA, 0.0).double())


@FUSED
def test_mass_is_restored(fused: bool) -> None:
    """Magnitudes add up to 33: what is kept is multiplied by 33 over its own sum."""
    seed = next(seed for seed in range(9) if kept(seed).any())
    left = torch.where(kept(seed), DELTA, 0.0).double()
    found = della(fused, seed=seed, density=0.5, epsilon=0.25, rescale="l1")
    assert torch.allclose(found, left * (33 / float(left.abs().sum())), rtol=1e-14, atol=1e-14)


@FUSED
@pytest.mark.parametrize("rescale", ["inverse", "l1", "none"])
def test_ends(fused: bool, rescale: str) -> None:
    """Density 1 keeps all as it is and 0 nothing, whatever epsilon is."""
    assert torch.equal(della(fused, density=1.0, rescale=rescale), DELTA.double())
    assert (della(fused, density=0.0, rescale=rescale) == 0).all()


@FUSED
def test_a_row_of_one(fused: bool) -> None:
    """There is no larger or smaller: the chance is the density."""
    column = torch.ones(20_000, 1)
    share = float((della(fused, column, density=0.3, rescale="none") != 0).double().mean())
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 20_000)


@FUSED
def test_equal_magnitudes_rank_by_place(fused: bool) -> None:
    """Of a row of equal ones the last is kept most often, and the sign is no matter."""
    rows = torch.ones(50_000, 4) * torch.tensor([1.0, -1.0, 1.0, -1.0])
    rates = (della(fused, rows, density=0.5, epsilon=0.3, rescale="none") != 0).double().mean(0)
    assert torch.allclose(rates, torch.tensor([0.2, 0.4, 0.6, 0.8]).double(), atol=4 * 0.5 / math.sqrt(50_000))


@FUSED
def test_models_have_their_own_shares(fused: bool) -> None:
    """The second keeps everything."""
    values = {"density": (0.5, 1.0), "epsilon": (0.25, 0.5), "rescale": "none"}
    chain = [("della", values), ("task_arithmetic", {"weight": (1.0, 100.0)})]
    found = merge(chain, [DELTA, DELTA], BASE, fused=fused)
    assert torch.equal(found, torch.where(kept(0), DELTA, 0.0) + 100 * DELTA)


@pytest.mark.parametrize(("density", "epsilon"), [(0.9, 0.15), (0.1, 0.1), (0.5, 0.5)])
def test_chances_beyond_zero_and_one(density: float, epsilon: float) -> None:
    """0.9 + 0.15 is no probability, and one of 0 never keeps the smallest."""
    with pytest.raises(RecipeError, match="lower epsilon"):
        della(True, density=density, epsilon=epsilon)
