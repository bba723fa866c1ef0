"""Rows predicted from another embedding, on numbers small enough to work out."""

import pytest
import torch
from torch import Tensor

from eutectic.numerics.transplant import interpolate, linear_map, project, pursue


def rows(*values: list[float]) -> Tensor:
    """Returns a matrix in float64."""
    return torch.tensor(values, dtype=torch.float64)


THERE = rows([1.0, 0.0], [0.0, 2.0], [4.0, 4.0])
HERE = rows([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])  # the result is the coefficients themselves


def test_nearest() -> None:
    """(1, 1) is at distance 1 from the first, sqrt 2 from the second: the first one's row."""
    got = interpolate(rows([1.0, 1.0]), THERE, HERE, k=1, weights="distance", distance="euclidean")
    assert torch.allclose(got, rows([1.0, 0.0, 0.0]))


def test_inverse_distances() -> None:
    """(3, 0) is at 2 and sqrt 13 from the first two: weights 1/2 and 1/sqrt 13, over their sum; (4, 4) at sqrt 17."""
    got = interpolate(rows([3.0, 0.0]), THERE, HERE, k=2, weights="distance", distance="euclidean")
    first, second = 1 / 2, 1 / 13**0.5
    assert torch.allclose(got, rows([first, second, 0.0]) / (first + second))


def test_a_shared_row_itself() -> None:
    """At distance zero the floor of 1e-6 leaves the others less than a millionth."""
    got = interpolate(rows([0.0, 2.0]), THERE, HERE, k=3, weights="distance", distance="euclidean")
    assert torch.allclose(got, rows([0.0, 1.0, 0.0]), atol=1e-5)


def test_cosines() -> None:
    """(2, 0): cosines 1, 0 and 1/sqrt 2, which are the weights before they are made to sum to one."""
    got = interpolate(rows([2.0, 0.0]), THERE, HERE, k=2, weights="distance", distance="cosine")
    assert torch.allclose(got, rows([1.0, 0.0, 0.5**0.5]) / (1 + 0.5**0.5))


def test_least_squares_and_barycentric() -> None:
    """(3, 1) = 3 (1, 0) + 1/2 (0, 2); with weights a and 1 - a, (a - 3)^2 + (2 - 2a - 1)^2 is least at a = 1."""
    shared, own = THERE[:2], HERE[:2]
    free = interpolate(rows([3.0, 1.0]), shared, own, k=2, weights="least_squares", distance="euclidean")
    assert torch.allclose(free, rows([3.0, 0.5, 0.0]))
    summed = interpolate(rows([3.0, 1.0]), shared, own, k=2, weights="barycentric", distance="euclidean")
    assert torch.allclose(summed, rows([1.0, 0.0, 0.0]), atol=1e-12)


def test_pursuit() -> None:
    """(3, 1) meets (4, 4) first (16 against 3 and 2), which leaves (1, -1); that meets (0, 2): 3/4 (4, 4) - (0, 2)."""
    one = pursue(rows([3.0, 1.0]), THERE, HERE, k=1)
    assert torch.allclose(one, rows([0.0, 0.0, 16 / 32]))  # the projection on (4, 4)
    two = pursue(rows([3.0, 1.0]), THERE, HERE, k=2)
    assert torch.allclose(two, rows([0.0, -1.0, 0.75]))


def test_pursuit_stops_where_nothing_is_new() -> None:
    """K beyond the donor's width, or tokens that are multiples of each other, do not blow coefficients up."""
    found = pursue(rows([3.0, 1.0]), THERE, HERE, k=64)
    assert torch.allclose(found, rows([0.0, -1.0, 0.75]))
    line = rows([1.0, 1.0], [2.0, 2.0], [3.0, 3.0])
    found = pursue(rows([2.0, 0.0]), line, HERE, k=2)
    assert torch.allclose(found, rows([0.0, 0.0, 1 / 3]))
    assert torch.equal(pursue(rows([0.0, 0.0]), THERE, HERE, k=2), rows([0.0, 0.0, 0.0]))


def test_targets_do_not_see_each_other() -> None:
    """A target's row is the same alone and among others, whatever the batch."""
    generator = torch.Generator().manual_seed(0)
    there, here, targets = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((50, 8), (50, 6), (70, 8))
    )
    together = pursue(targets, there, here, k=4)
    alone = torch.cat([pursue(each[None], there, here, k=4) for each in targets])
    assert torch.allclose(together, alone, atol=1e-12)


@pytest.mark.parametrize("kind", ["least_squares", "affine", "procrustes", "scaled", "landmark", "ridge"])
def test_maps_find_a_turn(kind: str) -> None:
    """Every map that may finds a rotation again exactly; the penalty shrinks ridge's a little."""
    turn = rows([0.6, -0.8], [0.8, 0.6])
    there = rows([1.0, 0.0], [0.0, 2.0], [4.0, 4.0], [-3.0, 1.0])
    there = there - there.mean(0)  # so that centred maps see the same
    got = project(rows([5.0, 6.0]), there, there @ turn, kind=kind, ridge=1e-6)
    assert torch.allclose(got, rows([5.0, 6.0]) @ turn, atol=1e-4)


def test_affine_moves_and_procrustes_only_turns() -> None:
    """Y = 2x + 1: affine finds it, scaled too (a turn by zero, times two), procrustes keeps lengths."""
    there = rows([0.0, 0.0], [1.0, 0.0], [0.0, 1.0])
    here = 2 * there + 1
    for kind in ("affine", "scaled"):
        assert torch.allclose(project(rows([3.0, 5.0]), there, here, kind=kind), rows([7.0, 11.0]))
    matrix, _, _ = linear_map(there, here, "procrustes")
    assert torch.allclose(matrix @ matrix.T, torch.eye(2, dtype=torch.float64))
