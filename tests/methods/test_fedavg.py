"""FedAvg of factors, by hand on rank one."""

import pytest
import torch

from eutectic.adapters.factors import Factors
from eutectic.errors import RecipeError
from tests.make.factors import made, merged


def part(b: list[list[float]], a: list[list[float]], scale: float = 1.0) -> Factors:
    """Returns an update from nested lists."""
    return Factors(torch.tensor(b).double(), torch.tensor(a).double(), scale)


def test_has_cross_terms() -> None:
    """Weights 3 and 1: B = 3/4 (4,0) + 1/4 (0,8) = (3,2), A = 3/4 (4,0) + 1/4 (0,4) = (3,1).

    The product is [[9,3],[6,2]]; the average of the updates is [[12,0],[0,8]].
    """
    parts = [part([[4], [0]], [[4, 0]]), part([[0], [8]], [[0, 4]])]
    assert merged(("fedavg", {"weight": (3.0, 1.0)}), parts).tolist() == [[9.0, 3.0], [6.0, 2.0]]


def test_is_exact_where_a_is_shared() -> None:
    """1/2 (2 * (1,0) + (0,2)) (1,3) = (1,1)(1,3); the scale 2 is in B."""
    parts = [part([[1], [0]], [[1, 3]], 2.0), part([[0], [2]], [[1, 3]])]
    assert merged(("fedavg", {}), parts).tolist() == [[1.0, 3.0], [1.0, 3.0]]


def test_smaller_ranks_are_filled_with_zeros() -> None:
    """The second direction of the first client is halved in both factors: (1)(2) becomes (1/2)(1)."""
    parts = [part([[1, 1]], [[1], [2]]), part([[3]], [[1]])]
    found = made(("fedavg", {}), parts)
    assert found.b.tolist() == [[2.0, 0.5]]
    assert found.a.tolist() == [[1.0], [1.0]]


def test_no_samples_at_all_are_refused() -> None:
    """Counts that add up to nothing."""
    with pytest.raises(RecipeError, match="add up to 0"):
        merged(("fedavg", {"weight": (0.0, 0.0)}), [part([[1]], [[1]])] * 2)
