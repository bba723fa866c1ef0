"""What is left of an update's directions, by hand."""

import pytest
import torch

from eutectic.adapters.factors import Factors
from eutectic.diagnose.directions import directions
from tests.make.factors import mixed, updates


def diagonal(*values: float) -> Factors:
    """Returns a square update with these singular values along the axes."""
    return Factors(torch.diag(torch.tensor(values)).double(), torch.eye(len(values)).double())


def test_an_update_against_itself() -> None:
    """Everything is 1, also from other factors, and at twice the size ratios are 2."""
    update = updates(1)[0]
    found = directions(update, mixed(update).scaled(2.0))
    for value in (found.left, found.right, found.response):
        assert torch.allclose(value, torch.ones(3).double())
    for value in (found.ratio, found.response_ratio):
        assert torch.allclose(value, torch.full((3,), 2.0).double())


def test_directions_that_cross() -> None:
    """diag(4, 2, 0) against diag(1, 3, 0): the merged update's first direction is the second axis.

    Matched by place nothing agrees, and ratios are 3/4 and 1/2. By response both directions are there, at 1/4 and 3/2.
    """
    found = directions(diagonal(4, 2, 0), diagonal(1, 3, 0))
    assert found.left.tolist() == found.right.tolist() == [0.0, 0.0]
    assert torch.allclose(found.ratio, torch.tensor([0.75, 0.5]).double())
    assert torch.allclose(found.response, torch.ones(2).double())
    assert torch.allclose(found.response_ratio, torch.tensor([0.25, 1.5]).double())


def test_what_is_gone_is_zero() -> None:
    """Merged to rank 1, or to nothing: zeros, no NaN. An update of zero has no directions."""
    one = Factors(torch.tensor([[2.0], [0.0]]).double(), torch.tensor([[1.0, 0.0]]).double())
    found = directions(diagonal(4, 2), one)
    assert found.left.tolist() == [1.0, 0.0]
    assert found.ratio.tolist() == [0.5, 0.0]
    assert found.response.tolist() == [1.0, 0.0]
    assert directions(diagonal(4, 2), diagonal(0, 0)).response_ratio.tolist() == [0.0, 0.0]
    assert len(directions(diagonal(0, 0), one).left) == 0


def test_shapes_must_agree() -> None:
    """Updates of different tensors."""
    with pytest.raises(ValueError, match="one shape"):
        directions(diagonal(1, 2), diagonal(1, 2, 3))
