import math

import numpy as np
import pytest
import torch

from eutectic.methods.karcher import coefficients
from tests.make.sites import merge, table

#: What an option gives up of the declared laws, for tests/laws/test_methods.py.
LAWS_ASIDE = {"floor": {"fixed_point", "identity", "scale"}}  # an absolute norm, below which nothing is left

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])


def at(degrees: float, length: float = 1.0) -> torch.Tensor:
    """Returns a vector in a plane."""
    angle = math.radians(degrees)
    return table([length * math.cos(angle), length * math.sin(angle), 0], [0, 0, 0])


@FUSED
def test_by_hand(fused: bool) -> None:
    """On one circle the mean angle is the mean of the angles: 0, 20 and 70 give 30; lengths 1, 2 and 3 give 2."""
    found = merge(("karcher", {"tol": 1e-9}), [at(0), at(20, 2.0), at(70, 3.0)], fused=fused)
    assert torch.allclose(found, at(30, 2.0), atol=1e-6)


def test_no_steps() -> None:
    """Without steps it is the direction of the mean unit vector: of e1, e1 and e2, (2, 1) / sqrt 5."""
    found = merge(("karcher", {"max_iter": 0}), [at(0), at(0), at(90)])
    assert torch.allclose(found, table([2, 1, 0], [0, 0, 0]) / math.sqrt(5), atol=1e-6)


def test_one_step() -> None:
    """From (2, 1) / sqrt 5 at 26.565 degrees, the mean pull is (-26.565 * 2 + 63.435) / 3 = 3.435: at 30."""
    found = merge(("karcher", {"max_iter": 1}), [at(0), at(0), at(90)])
    assert torch.allclose(found, at(30), atol=1e-6)


def test_in_space_pulls_cancel() -> None:
    """At the mean the logarithms of all models add up to zero."""
    source = torch.Generator().manual_seed(3)
    models = torch.randn(4, 50, generator=source, dtype=torch.float64) + 0.5
    found = merge(("karcher", {"max_iter": 200, "tol": 1e-12}), list(models), double=True)
    mean, units = found / found.norm(), models / models.norm(dim=1, keepdim=True)
    near = units @ mean
    pulls = (near.acos() / near.acos().sin())[:, None] * (units - near[:, None] * mean)
    assert pulls.sum(0).norm() < 1e-10
    assert math.isclose(float(found.norm()), float(models.norm(dim=1).mean()), rel_tol=1e-12)


@FUSED
def test_zeros(fused: bool) -> None:
    """A zero tensor has no direction, and its length counts; none with a direction is zero; so is mergekit's floor."""
    assert torch.allclose(merge(("karcher", {}), [at(40, 2.0), 0 * at(0)], fused=fused), at(40), atol=1e-6)
    assert (merge(("karcher", {}), [0 * at(0)] * 3, fused=fused) == 0).all()
    small = [1e-6 * at(0), 1e-6 * at(60)]
    assert torch.allclose(merge(("karcher", {}), small, fused=fused), 1e-6 * at(30), rtol=1e-5)
    assert (merge(("karcher", {"floor": 1e-5}), small, fused=fused) == 0).all()


@FUSED
def test_equal_and_opposite(fused: bool) -> None:
    """Equal models are kept; of two opposite ones the first has the direction; one alone is itself."""
    assert torch.allclose(merge(("karcher", {}), [at(25)] * 3, fused=fused), at(25), atol=1e-7)
    assert torch.allclose(merge(("karcher", {}), [at(25), -at(25)], fused=fused), at(25), atol=1e-7)
    assert torch.allclose(merge(("karcher", {}), [at(25, 0.3)], fused=fused), at(25, 0.3), atol=1e-7)


@FUSED
def test_infinity_stays_where_it_is(fused: bool) -> None:
    """With a norm that is not finite there are no directions: the plain mean."""
    other = at(90).clone()
    other[1, 2] = float("inf")
    found = merge(("karcher", {}), [at(0), other], fused=fused)
    assert torch.allclose(found[0], (at(0) + at(90))[0] / 2)
    assert found[1, 2] == float("inf")


def test_nearly_equal_models() -> None:
    """Angles of 1e-4 are still told apart: the mean of 0, 0 and 3e-4 is at 1e-4, to a millionth of it."""
    angles = np.array([0.0, 0.0, 3e-4])
    found = coefficients(np.cos(angles[:, None] - angles[None]), 50, 1e-10, 0.0)
    assert math.isclose(sum(c * math.sin(a) for c, a in zip(found, angles, strict=True)), 1e-4, rel_tol=1e-6)
