"""Which ranks are asked for; that they are found is held to sorting in tests/laws/test_stats.py."""

import math

import pytest
import torch

from eutectic.stats.fold import Scope
from eutectic.stats.quantiles import MagnitudeQuantile, Rank, kept_rank
from tests.make.sites import merge

#: total, density, rank -> how many magnitudes are kept when none are equal (0 for "all": the rank is 0).
KEPT: list[tuple[int, float, Rank, int]] = [
    (4304, 0.2, "official", 861),  # int(860.8) + 1: the authors' code, on its own golden case
    (4304, 0.2, "exact", 860),
    (4304, 0.2, "mask_rate", 862),  # masks below the int(4304 * 0.8) = 3443rd
    (10, 0.3, "exact", 3),
    (100, 0.29, "exact", 28),  # 0.29 * 100 is 28.999... in floats
    (100, 0.29, "official", 29),
    (10, 0.7, "exact", 7),
    (3, 0.1, "exact", 1),  # at least one
    (3, 0.1, "official", 1),
    (1, 0.5, "official", 1),
    (1, 0.5, "exact", 1),
    (10, 0.9, "mask_rate", 10),  # int(10 * 0.1) = 1: from the smallest on
    (10, 0.8, "mask_rate", 9),
]


@pytest.mark.parametrize(("total", "density", "rank", "kept"), KEPT)
def test_kept_rank(total: int, density: float, rank: Rank, kept: int) -> None:
    """Keeping from the r-th smallest on keeps total - r + 1."""
    assert total - kept_rank(total, density, rank) + 1 == kept


@pytest.mark.parametrize("rank", ["official", "exact", "mask_rate"])
def test_kept_rank_at_its_ends(rank: Rank) -> None:
    """Density 1 keeps all, of many or of none; a rank never leaves the elements there are."""
    assert kept_rank(10, 1.0, rank) == 0
    assert kept_rank(0, 0.5, rank) == 0
    for total in (1, 2, 7, 1000):
        for density in (0.0, 1e-9, 0.1, 0.5, 0.999999):
            assert 0 <= kept_rank(total, density, rank) <= total


@pytest.mark.parametrize("rank", ["official", "exact", "mask_rate"])
def test_kept_rank_is_what_is_kept(rank: Rank) -> None:
    """A trim keeps as many different magnitudes as its rank says."""
    model = torch.arange(1.0, 101.0)
    for density in (0.01, 0.2, 0.29, 0.57, 0.99):
        merged = merge(
            [("trim", {"density": density, "count": rank}), ("task_arithmetic", {})], [model], torch.zeros(100)
        )
        assert int((merged != 0).sum()) == 100 - max(1, kept_rank(100, density, rank)) + 1


def test_a_cut_is_one_density_for_all_or_one_each() -> None:
    """A single share is every model's."""
    assert MagnitudeQuantile(Scope.TENSOR, (0.5,)) != MagnitudeQuantile(Scope.TENSOR, (0.5, 0.5))
    model = torch.tensor([1.0, 2.0, 3.0, 4.0])
    one, each = (
        merge(("ties", {"density": density, "scope": "tensor", "average": "sum"}), [model, model], torch.zeros(4))
        for density in (0.5, (0.5, 0.25))
    )
    assert one.tolist() == [0, 4, 6, 8]  # rank 4 - 2 = 2 of both
    assert each.tolist() == [0, 2, 6, 8]  # rank 4 - 1 = 3 of the second


def test_largest_of_all() -> None:
    """Infinity is a magnitude like others, above all numbers."""
    model = torch.tensor([1.0, -math.inf, 2.0])
    merged = merge([("trim", {"density": 0.3, "count": "exact"}), ("task_arithmetic", {})], [model], torch.zeros(3))
    assert merged.tolist() == [0.0, -math.inf, 0.0]
