import math

import numpy as np
import pytest
import torch

from eutectic.methods import get
from eutectic.methods.slerp import coefficients
from tests.make.sites import merge, table

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
START = table([3, 0, 0], [0, 0, 0])
END = table([0, 4, 0], [0, 0, 0])


def slerp(fused: bool, start: torch.Tensor, end: torch.Tensor, t: float, **values: float) -> torch.Tensor:
    """Returns the point at t, from a base to a model and from model to model, which are the same."""
    step = ("slerp", {"t": t, **values})
    found = merge(step, [end], start, fused=fused)
    assert torch.equal(found, merge(step, [start, end], fused=fused))
    return found


@FUSED
def test_by_hand(fused: bool) -> None:
    """At a right angle, a third of the way: sin 60 of the start and sin 30 = 0.5 of the end, lengths as they are."""
    expected = table([3 * math.sqrt(3) / 2, 2, 0], [0, 0, 0])
    assert torch.allclose(slerp(fused, START, END, 1 / 3), expected, rtol=1e-6)


@FUSED
def test_sixty_degrees(fused: bool) -> None:
    """Half way between unit vectors 60 degrees apart is the unit vector at 30."""
    start, end = table([1, 0, 0], [0, 0, 0]), table([0.5, math.sqrt(3) / 2, 0], [0, 0, 0])
    expected = table([math.sqrt(3) / 2, 0.5, 0], [0, 0, 0])
    assert torch.allclose(slerp(fused, start, end, 0.5), expected, rtol=1e-6)


@FUSED
def test_ends(fused: bool) -> None:
    """0 is the start and 1 the end, exactly; beyond them the circle goes on: at 2, minus the start."""
    assert torch.equal(slerp(fused, START, END, 0.0), START)
    assert torch.equal(slerp(fused, START, END, 1.0), END)
    assert torch.allclose(slerp(fused, START, END, 2.0), -START, atol=1e-6)


@FUSED
@pytest.mark.parametrize("turn", [2.0, -2.0], ids=["parallel", "antiparallel"])
def test_parallel_is_linear(fused: bool, turn: float) -> None:
    """On one line there is no arc: (1 - t) start + t end."""
    start = table([1, 2, 3], [4, 5, 6])
    assert torch.allclose(slerp(fused, start, turn * start, 0.25), start * (0.75 + 0.25 * turn), rtol=1e-6)


@FUSED
def test_how_parallel(fused: bool) -> None:
    """A cosine of 0.5 is an arc by default, and a line when 0.4 counts as parallel."""
    start, end = table([1, 0, 0], [0, 0, 0]), table([0.5, math.sqrt(3) / 2, 0], [0, 0, 0])
    assert torch.allclose(slerp(fused, start, end, 0.5, parallel=0.4), (start + end) / 2)
    assert not torch.allclose(slerp(fused, start, end, 0.5), (start + end) / 2)


@FUSED
def test_zero_has_no_direction(fused: bool) -> None:
    """A norm up to 1e-8 counts as 1, as in mergekit, which leaves a right angle: sin 45 of the other."""
    found = slerp(fused, torch.zeros(2, 3), END, 0.5)
    assert torch.allclose(found, END * math.sqrt(0.5), rtol=1e-6)
    assert (slerp(fused, torch.zeros(2, 3), torch.zeros(2, 3), 0.5) == 0).all()


@FUSED
def test_infinity_stays_where_it_is(fused: bool) -> None:
    """With a norm that is not finite the angle is unknown: a line, which leaves the other elements usable."""
    start, end = START.clone(), END.clone()
    end[1, 2] = float("inf")
    expected = 0.5 * start + 0.5 * end
    assert torch.equal(slerp(fused, start, end, 0.5), expected)


def test_coefficients_of_a_line_add_up_to_one() -> None:
    """From inner products: nearly parallel vectors, also when rounding makes the cosine exceed 1."""
    gram = np.array([[1.0, 1.0 + 1e-15], [1.0 + 1e-15, 1.0]])
    assert coefficients(gram, 0.25, 0.9995) == (0.75, 0.25)


def test_takes_two() -> None:
    """Two models, or a base and one: other recipes are refused by this declaration."""
    needs = get("slerp").needs
    assert (needs.models.low, needs.models.high, needs.base_counts, needs.base) == (2, 2, True, False)
