import math

import numpy as np
import pytest
import torch

from eutectic.errors import RecipeError
from eutectic.methods.geometric_median import coefficients
from tests.make.sites import Job, merge, table

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])


def corner(x: float, y: float) -> torch.Tensor:
    """Returns a point of a plane."""
    return table([x, y, 0], [0, 0, 0])


@FUSED
def test_by_hand(fused: bool) -> None:
    """Of a square's corners and a far point opposite none: symmetric corners have their centre as median."""
    corners = [corner(1, 0), corner(0, 1), corner(-1, 0), corner(0, -1)]
    moved = [each + 5 for each in corners]
    assert torch.allclose(merge(("geometric_median", {}), moved, fused=fused), corner(0, 0) + 5, atol=1e-6)


@FUSED
def test_fermat_point(fused: bool) -> None:
    """Of (0, 0), (1, 0), (0, 1) the sides are seen under 120 degrees: x = y = (3 - sqrt 3) / 6."""
    models = [corner(0, 0), corner(1, 0), corner(0, 1)]
    side = (3 - math.sqrt(3)) / 6
    assert torch.allclose(merge(("geometric_median", {}), models, fused=fused), corner(side, side), atol=1e-6)


@FUSED
def test_a_bad_model_does_not_drag(fused: bool) -> None:
    """Three equal models outweigh one that is anywhere: the median is theirs."""
    good, bad = corner(1, 2), corner(1e6, -1e6)
    assert torch.allclose(merge(("geometric_median", {}), [good, good, good, bad], fused=fused), good, atol=1e-4)


@FUSED
def test_weights_on_a_line(fused: bool) -> None:
    """At 0, 1 and 5 the median is 1; when 5 weighs more than both, 5."""
    line = [corner(x, 0) for x in (0, 1, 5)]
    assert torch.allclose(merge(("geometric_median", {}), line, fused=fused), corner(1, 0), atol=1e-4)
    heavy = merge(("geometric_median", {"weight": (1.0, 1.0, 3.0)}), line, fused=fused)
    assert torch.allclose(heavy, corner(5, 0), atol=1e-4)


def test_smoothing_and_one_step() -> None:
    """From the mean, 2, of 0, 1, 5: distances 2, 1, 3, shares 3/11, 6/11, 2/11; far below the smoothing the mean."""
    line = [corner(x, 0) for x in (0, 1, 5)]
    assert torch.allclose(merge(("geometric_median", {"max_iter": 1}), line), corner((6 + 10) / 11, 0))
    assert torch.allclose(merge(("geometric_median", {"smoothing": 100.0}), line), corner(2, 0))


def test_scopes() -> None:
    """One median of the whole model, or one per tensor: in the second tensor another model is the odd one out."""
    good, bad = torch.ones(4), 100 * torch.ones(4)
    models = [{"a": good, "b": good}, {"a": good, "b": bad}, {"a": bad, "b": good}]
    apart = Job([("geometric_median", {"scope": "tensor"})], models).run()
    assert torch.allclose(apart.tensor("a"), good, atol=1e-3)
    assert torch.allclose(apart.tensor("b"), good, atol=1e-3)
    whole = Job([("geometric_median", {})], models).run()
    # Together they are a right angle: both legs of 198 share the corner's Fermat point.
    shift = 1 + 99 * (3 - math.sqrt(3)) / 6
    assert torch.allclose(whole.tensor("a"), torch.full((4,), shift), rtol=1e-5)
    assert torch.allclose(whole.tensor("b"), torch.full((4,), shift), rtol=1e-5)


@FUSED
def test_equal_one_and_zero(fused: bool) -> None:
    """Equal models are kept, one is itself, zeros are zero."""
    one = corner(0.3, 0.7)
    for models in ([one] * 3, [one], [0 * one] * 2):
        assert torch.allclose(merge(("geometric_median", {}), models, fused=fused), models[0], atol=1e-7)


@FUSED
def test_infinity_stays_where_it_is(fused: bool) -> None:
    """With a distance that is not finite the mean is taken, which leaves the other elements usable."""
    other = corner(3, 1).clone()
    other[1, 2] = float("inf")
    found = merge(("geometric_median", {}), [corner(1, 1), other], fused=fused)
    assert torch.equal(found[0], corner(2, 1)[0])
    assert found[1, 2] == float("inf")


def test_weights_of_zero() -> None:
    """No weight at all is no average."""
    with pytest.raises(RecipeError, match="add up to 0"):
        merge(("geometric_median", {"weight": (0.0, 0.0)}), [corner(0, 0), corner(1, 0)])


def test_coefficients_add_up_to_one() -> None:
    """Shares of an average, also without smoothing and with models on top of each other."""
    points = np.array([[0.0, 0.0], [0.0, 0.0], [4.0, 3.0]])
    found = coefficients(points @ points.T, np.ones(3), 0.0, 100)
    assert math.isclose(sum(found), 1.0)
    assert found[2] < 1e-12
