"""OrthoMerge: rotations by hand in the plane, what is left of them, and generators of OFT adapters."""

import math

import pytest
import torch

from eutectic.errors import MismatchError
from eutectic.methods.orthomerge import join
from tests.make.sites import merge

TRIED = {"residual": [0.0, 1.0]}


def turn(angle: float) -> torch.Tensor:
    """Returns the plane's rotation."""
    return torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]).double()


def orthomerge(models: list[torch.Tensor], base: torch.Tensor, **values: object) -> torch.Tensor:
    """Returns the merged tensor in float64."""
    return merge(("orthomerge", values), models, base, double=True, out="F64")


def test_pure_rotations() -> None:
    """Rotations by 0.2 and 0.6 have generators tan(0.1) and tan(0.3): of one direction, so their mean is merged."""
    base = torch.tensor([[2.0, 0.0], [1.0, 3.0], [0.0, 1.0]]).double()
    found = orthomerge([base @ turn(0.2), base @ turn(0.6)], base)
    angle = 2 * math.atan((math.tan(0.1) + math.tan(0.3)) / 2)
    assert torch.allclose(found, base @ turn(angle), atol=1e-12)


def test_the_sum_is_as_long_as_the_parts() -> None:
    """Quarter turns about two axes of space: generators of length sqrt(2) t, t = tan(pi/8), at right angles.

    Their sum has length 2 t, shorter than the two; it is lengthened to sqrt(2) t, a quarter turn about the diagonal.
    """
    x, y = torch.eye(3).double(), torch.eye(3).double()
    x[1:, 1:] = turn(math.pi / 4)
    y[::2, ::2] = turn(math.pi / 4)
    found = orthomerge([x, y], torch.eye(3).double())
    cosine = (float(found.trace()) - 1) / 2
    assert math.acos(cosine) == pytest.approx(math.pi / 4)


def test_what_no_rotation_explains() -> None:
    """A stretch is all residual: of W_0 = I and diag(2, 1), diag(1, 4): I + 0.2 (diag(1, 0) + diag(0, 3))."""
    models = [torch.diag(torch.tensor([2.0, 1.0])).double(), torch.diag(torch.tensor([1.0, 4.0])).double()]
    base = torch.eye(2).double()
    assert torch.allclose(orthomerge(models, base), torch.diag(torch.tensor([1.2, 1.6])).double())
    twice = orthomerge(models, base, weight=(2.0, 0.0))
    assert torch.allclose(twice, torch.diag(torch.tensor([1.4, 1.0])).double())


def test_wide_matrices_turn_in_their_rows_only() -> None:
    """One row in five columns, turned by 0.2 and 0.6 in the plane of the first two."""
    base = torch.tensor([[2.0, 0.0, 0.0, 0.0, 0.0]]).double()
    models = [2 * torch.tensor([[math.cos(a), math.sin(a), 0.0, 0.0, 0.0]]).double() for a in (0.2, 0.6)]
    angle = 2 * math.atan((math.tan(0.1) + math.tan(0.3)) / 2)
    expected = 2 * torch.tensor([[math.cos(angle), math.sin(angle), 0.0, 0.0, 0.0]]).double()
    assert torch.allclose(orthomerge(models, base), expected, atol=1e-12)


def test_opposite_rotations_stay() -> None:
    """Generators that cancel have no direction to be lengthened in."""
    base = torch.eye(2).double()
    assert torch.allclose(orthomerge([turn(0.5), turn(-0.5)], base), base)


def test_half_a_turn_is_refused() -> None:
    """Nobody fine-tunes W to -W."""
    with pytest.raises(MismatchError, match="half a turn"):
        orthomerge([-torch.eye(2).double()], torch.eye(2).double())


def test_generators_of_adapters() -> None:
    """Two blocks of size 2: (3, 0) and (0, 4) add up to (3, 4) of length 5, shortened to the mean 3.5."""
    found = join([torch.tensor([[3.0], [0.0]]), torch.tensor([[0.0], [4.0]])])
    assert torch.allclose(found, torch.tensor([[2.1], [2.8]]))
