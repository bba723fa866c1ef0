"""Core Space: small matrices between shared columns and rows."""

import torch

from eutectic.adapters.factors import Factors
from tests.make.factors import made, merged, mixed, updates


def test_by_hand() -> None:
    """B = [(3,0), (0,2)] and A = [(4,0); (0,1)] have the unit vectors as singular ones, in this order.

    M_1 = 3 * 4 at (0, 0), M_2 = 2 * 1 at (1, 1); the scale 2 of the second is in its B.
    """
    parts = [
        Factors(torch.tensor([[3.0], [0.0]]).double(), torch.tensor([[4.0, 0.0]]).double()),
        Factors(torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[0.0, 1.0]]).double(), 2.0),
    ]
    found = made(("core_space", {}), parts)
    assert torch.allclose(found.values.abs(), torch.tensor([[[12, 0], [0, 0]], [[0, 0], [0, 2]]]).double())


def test_nothing_is_lost() -> None:
    """Bases are orthonormal, and U M_i V^T is the update, also where ranks differ or add up to more than the sides."""
    for shape, ranks, core in (((7, 9), (2, 3, 1), (6, 6)), ((4, 9), (3,), (4, 9)), ((9, 4), (3,), (9, 4))):
        parts = updates(3, shape, ranks)
        found = made(("core_space", {}), parts)
        assert found.values.shape == (3, *core)
        assert torch.allclose(found.left.T @ found.left, torch.eye(core[0]).double(), atol=1e-12)
        assert torch.allclose(found.right @ found.right.T, torch.eye(core[1]).double(), atol=1e-12)
        for part, values in zip(parts, found.values, strict=True):
            assert torch.allclose(found.left @ values @ found.right, part.dense(), atol=1e-9)


def test_zeros_and_copies_make_no_nan() -> None:
    """Sums are what they were."""
    first = updates(1)[0]
    parts = [first, first, Factors(torch.zeros_like(first.b), first.a)]
    assert torch.allclose(merged(("core_space", {}), parts), 2 * first.dense(), atol=1e-9)


def test_votes_depend_on_the_split() -> None:
    """TIES sees elements in a basis of the stored factors, as the docstring says; a sum does not."""
    parts = updates(3)
    others = [mixed(part, seed) for seed, part in enumerate(parts)]
    for then, same in (("task_arithmetic", {}), True), (("ties", {"density": 1.0}), False):
        found = [merged(("core_space", {}), each, then) for each in (parts, others)]
        assert torch.allclose(*found, atol=1e-8) == same
