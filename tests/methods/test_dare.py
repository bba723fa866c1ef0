import math

import pytest
import torch

from eutectic.numerics.draw import Key
from tests.make.sites import Step, merge, table

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
BASE = table([1, 1, 1], [2, 2, 2])
DELTA = table([4, -8, 2], [1, 16, -2])
MANY = 200_000


def dare(fused: bool, deltas: list[torch.Tensor], base: torch.Tensor, seed: int = 0, **values: object) -> torch.Tensor:
    """Returns the sum of what DARE leaves of the deltas."""
    chain: list[Step] = [("dare", values), ("task_arithmetic", {})]
    models = [base + delta for delta in deltas]
    return merge(chain, models, base, fused=fused, seed=seed, double=True, out="F64") - base


@FUSED
def test_by_hand(fused: bool) -> None:
    """Elements the key keeps at density 0.25 are divided by 0.25, that is multiplied by 4; the others are zero."""
    kept = Key(0, "w").keep((0.25,), DELTA[None])[0]
    assert kept.any()
    assert not kept.all()
    assert torch.equal(dare(fused, [DELTA], BASE, density=0.25), torch.where(kept, 4.0 * DELTA, 0.0).double())


@FUSED
def test_without_rescaling(fused: bool) -> None:
    """What is kept stays as it is."""
    kept = Key(0, "w").keep((0.5,), DELTA[None])[0]
    found = dare(fused, [DELTA], BASE, density=0.5, rescale="none")
    assert torch.equal(found, torch.where(kept, DELTA, 0.0).double())


@FUSED
def test_mass_is_restored(fused: bool) -> None:
    """Magnitudes add up to 33: what is kept is multiplied by 33 over its own sum, to the last bit of float64."""
    kept = torch.where(Key(0, "w").keep((0.5,), DELTA[None])[0], DELTA, 0.0).double()
    found = dare(fused, [DELTA], BASE, density=0.5, rescale="l1")
    assert torch.allclose(found, kept * (33 / float(kept.abs().sum())), rtol=1e-14, atol=1e-14)
    assert float(found.abs().sum()) == pytest.approx(33, rel=1e-12)


@FUSED
@pytest.mark.parametrize("rescale", ["inverse", "l1", "none"])
def test_ends(fused: bool, rescale: str) -> None:
    """Density 1 keeps all as it is; density 0 leaves the base, and divides by nothing."""
    assert torch.equal(dare(fused, [DELTA], BASE, density=1.0, rescale=rescale), DELTA.double())
    assert (dare(fused, [DELTA], BASE, density=0.0, rescale=rescale) == 0).all()


@FUSED
def test_models_draw_apart(fused: bool) -> None:
    """Each model has its own density and its own draws."""
    ones = torch.ones(MANY)
    found = dare(fused, [ones, 16 * ones], torch.zeros(MANY), density=(0.5, 0.5))  # 0, 2, 32 or 34
    shares = [float((found == value).double().mean()) for value in (0, 2, 32, 34)]
    assert sum(shares) == 1
    assert all(abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / MANY) for share in shares)
    alone = dare(fused, [ones, 16 * ones], torch.zeros(MANY), density=(1.0, 0.0))
    assert (alone == 1).all()


@FUSED
@pytest.mark.parametrize("rescale", ["inverse", "l1"])
def test_the_mean_is_kept(fused: bool, rescale: str) -> None:
    """Rescaled deltas keep the mean: to five standard errors or, with their mass restored, exactly."""
    density = 0.1
    mean = float(dare(fused, [torch.ones(MANY)], torch.zeros(MANY), density=density, rescale=rescale).mean())
    error = 5 * math.sqrt((1 - density) / density / MANY) if rescale == "inverse" else 1e-12
    assert abs(mean - 1) < error


@FUSED
def test_seeds_and_steps(fused: bool) -> None:
    """The seed decides, and a second DARE in the chain draws anew: a quarter is left of two halves."""
    ones, base = torch.ones(MANY), torch.zeros(MANY)
    first = dare(fused, [ones], base, density=0.5, seed=1)
    assert torch.equal(first, dare(fused, [ones], base, density=0.5, seed=1))
    assert not torch.equal(first, dare(fused, [ones], base, density=0.5, seed=2))
    chain: list[Step] = [("dare", {"density": 0.5}), ("dare", {"density": 0.5}), ("task_arithmetic", {})]
    twice = merge(chain, [ones], base, fused=fused)
    assert set(twice.tolist()) == {0.0, 4.0}
    assert abs(float((twice > 0).double().mean()) - 0.25) < 5 * math.sqrt(0.25 * 0.75 / MANY)
