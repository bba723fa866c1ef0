"""Nearest rotations and their generators: by hand, with reflections and null spaces."""

import math

import torch

from eutectic.numerics.rotations import generator_of, nearest_rotation, rotation_of


def turn(angle: float) -> torch.Tensor:
    """Returns the plane's rotation."""
    return torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]).double()


def test_generator_of_an_angle() -> None:
    """A rotation by t has the generator tan(t / 2) (0, 1; -1, 0), and comes back from it."""
    found = generator_of(turn(0.6))
    assert found is not None
    assert torch.allclose(found, math.tan(0.3) * torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double(), atol=1e-15)
    assert torch.allclose(rotation_of(found), turn(0.6), atol=1e-15)


def test_half_a_turn_has_none() -> None:
    """Of -I the sum R + I is zero."""
    assert generator_of(-torch.eye(2).double()) is None
    assert generator_of(turn(math.pi - 1e-9)) is None


def test_nearest_rotation_of_a_stretched_one() -> None:
    """A positive stretch before a rotation does not change what is nearest."""
    stretch = torch.tensor([[3.0, 1.0], [1.0, 2.0]]).double()
    assert torch.allclose(nearest_rotation(stretch @ turn(0.4)), turn(0.4), atol=1e-14)


def test_a_reflection_is_no_rotation() -> None:
    """Of diag(3, 2, -1) the orthogonal matrix diag(1, 1, -1) is nearest; of the rotations it is the identity."""
    found = nearest_rotation(torch.diag(torch.tensor([3.0, 2.0, -1.0]).double()))
    assert torch.allclose(found, torch.eye(3).double(), atol=1e-15)


def test_what_is_not_seen_does_not_move() -> None:
    """Rank 2 of 5: the other three directions stay as near to themselves as the two allow; nothing seen, nothing moves.

    Bases of the null spaces do not matter: the answer is the same for the matrix in other coordinates.
    """
    assert torch.allclose(nearest_rotation(torch.zeros(4, 4).double()), torch.eye(4).double(), atol=1e-14)
    source = torch.Generator().manual_seed(1)
    seen = torch.randn(2, 5, generator=source, dtype=torch.float64)
    small = seen + 0.01 * torch.randn(2, 5, generator=source, dtype=torch.float64)
    found = nearest_rotation(seen.T @ small)
    assert torch.allclose(found @ found.T, torch.eye(5).double(), atol=1e-13)
    assert float((found - torch.eye(5).double()).norm()) < 0.1
    other = nearest_rotation(torch.eye(5).double() @ seen.T @ small)
    assert torch.allclose(found, other, atol=1e-12)
    assert torch.allclose(nearest_rotation(seen.T @ seen), torch.eye(5).double(), atol=1e-13)


def test_no_numbers_give_none() -> None:
    """A NaN spreads, and nothing raises."""
    assert bool(nearest_rotation(torch.full((2, 2), math.nan).double()).isnan().all())
