import pytest
import torch

from eutectic.methods.iso_cts import split
from tests.make.sites import merge

EXACT = pytest.mark.parametrize("exact", [False, True], ids=["shortcut", "exact"])


def diagonal(*numbers: float) -> torch.Tensor:
    """Returns a diagonal matrix."""
    return torch.diag(torch.tensor(numbers, dtype=torch.float32))


def iso(deltas: list[torch.Tensor], **values: object) -> torch.Tensor:
    """Returns the merged delta around a base of zeros."""
    return merge(("iso_cts", values), deltas, torch.zeros_like(deltas[0]))


@EXACT
def test_by_hand(exact: bool) -> None:
    """Rank 4, two tasks, half common: k = 2, s = 1.

    diag(4, 3, 2, 0) + diag(4, 3, 0, 1) = diag(8, 6, 2, 1): common e1 (8) and e2 (6). What is left of the tasks is
    diag(0, 0, 2, 0) and diag(0, 0, 0, 1). All four directions are orthonormal, and the mean is (8 + 6 + 2 + 1) / 4.
    """
    found = iso([diagonal(4, 3, 2, 0), diagonal(4, 3, 0, 1)], common=0.5, exact=exact)
    assert torch.allclose(found, 4.25 * torch.eye(4), atol=1e-5)


@EXACT
def test_weight_and_scale(exact: bool) -> None:
    """Weights 2 and 1: diag(8, 6, 4, 0) + diag(4, 3, 0, 1): (12 + 9 + 4 + 1) / 4 = 6.5, times 2."""
    deltas = [diagonal(4, 3, 2, 0), diagonal(4, 3, 0, 1)]
    found = iso(deltas, common=0.5, weight=(2.0, 1.0), scale=2.0, exact=exact)
    assert torch.allclose(found, 13 * torch.eye(4), atol=1e-5)


@EXACT
def test_tasks_with_nothing_of_their_own(exact: bool) -> None:
    """Equal tasks of rank 2 with two common directions: rounding errors are not taken for directions.

    The sum is 2 diag(4, 3, 0, 0), nothing is left, and the mean is over all four values: (8 + 6) / 4.
    """
    one = diagonal(4, 3, 0, 0)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0))).Q
    found = iso([turn @ one, turn @ one], common=0.5, exact=exact)
    assert torch.allclose(found, 3.5 * turn @ diagonal(1, 1, 0, 0), atol=1e-5)


@pytest.mark.parametrize(
    ("rank", "tasks", "common", "expected"),
    [
        (768, 8, 0.8, (616, 19)),  # 154 / 8 = 19.25
        (8, 3, 0.8, (5, 1)),  # 2 / 3
        (4, 8, 0.8, (4, 0)),  # 1 / 8
        (10, 4, 0.0, (2, 2)),  # 10 / 4 = 2.5 rounds to the even 2
        (5, 3, 0.0, (2, 1)),  # 5 / 3 rounds to 2, which three tasks cannot have
        (6, 2, 1.0, (6, 0)),
        (0, 2, 0.8, (0, 0)),
    ],
)
def test_split(rank: int, tasks: int, common: float, expected: tuple[int, int]) -> None:
    """All directions together are the rank, always."""
    assert split(rank, tasks, common) == expected
