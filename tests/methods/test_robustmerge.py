"""RobustMerge, by hand on factors of rank one and two."""

import pytest
import torch

from eutectic.adapters.factors import Factors
from tests.make.factors import made, merged, updates


def part(b: list[list[float]], a: list[list[float]], scale: float = 1.0) -> Factors:
    """Returns an update from nested lists."""
    return Factors(torch.tensor(b).double(), torch.tensor(a).double(), scale)


#: A has rows (4, 1) and (2, 2); half kept, by k = 2 of the sorted 1, 2, 2, 4: all but the 1. S = (5/4, 1).
#: B has the columns (1, 0) and (0, 2): k = 2 of 0, 0, 1, 2: threshold 0, all kept.
FIRST = part([[1, 0], [0, 2]], [[4, 1], [2, 2]])
#: A has rows (1, 1) and (8, 4): k = 2, threshold 1: all kept, S = (1, 1).
SECOND = part([[1, 0], [0, 1]], [[1, 1], [8, 4]])


def test_paper_adds_products() -> None:
    """T = (5/9, 1/2) and (4/9, 1/2).

    2 * ([1,0] 5/9 [4,0] + [0,2] 1/2 [2,2] + [1,0] 4/9 [1,1] + [0,1] 1/2 [8,4])
    = [[2 (20/9 + 4/9), 2 * 4/9], [2 (2 + 4), 2 (2 + 2)]] = [[16/3, 8/9], [12, 8]].
    """
    got = merged(("robustmerge", {"variant": "paper", "keep": 0.5}), [FIRST, SECOND])
    assert torch.allclose(got, torch.tensor([[16 / 3, 8 / 9], [12, 8]]).double())
    assert made(("robustmerge", {"variant": "paper"}), [FIRST, SECOND]).rank == 4


def test_code_merges_factors() -> None:
    """Without a clamp: A = 2 ((4,0) + (1,1), (2,2) + (8,4)) = ((10,2), (20,12)).

    B = 2 * columns (1,0) (5/9 + 4/9) and (0,2) 1/2 + (0,1) 1/2 = (2,0), (0,3).
    """
    got = made(("robustmerge", {"keep": 0.5, "clamp": 0.0}), [FIRST, SECOND])
    assert torch.allclose(got.a, torch.tensor([[10, 2], [20, 12]]).double())
    assert torch.allclose(got.b, torch.tensor([[2, 0], [0, 3]]).double())


def test_clamp_raises_to_the_largest_of_few() -> None:
    """Of two rows, int(2 * 0.8) = 1 is the larger: S = (5/4, 5/4) and (1, 1); T = 5/9 and 4/9 in both.

    The second column of B is 2 ((0,2) 5/9 + (0,1) 4/9) = (0, 28/9).
    """
    got = made(("robustmerge", {"keep": 0.5}), [FIRST, SECOND])
    assert torch.allclose(got.b, torch.tensor([[2, 0], [0, 28 / 9]]).double())


def test_lifts_may_stay_unnormalized() -> None:
    """The second adapter has weight 0: scale 1 and S = (5/4, 1) leave B (5/4, 0), (0, 2), A as pruned."""
    values = {"variant": "paper", "keep": 0.5, "normalize": False, "scale": 1.0, "weight": (1.0, 0.0)}
    got = merged(("robustmerge", values), [FIRST, SECOND])
    assert torch.allclose(got, torch.tensor([[5, 0], [4, 4]]).double())


def test_a_pruned_row_is_lifted_as_far_as_the_furthest() -> None:
    """A has rows (4, 4), (0.1, 0.1), k = int(4 * 0.5) + 1 would still keep one: at keep 0.2, k = 3 leaves the 4s.

    S = (1, x): x is the largest that is finite, 1, and nothing is NaN. T = 1. Update: 2 * 2 (1,0)(4,4).
    """
    one = part([[1, 0], [0, 1]], [[4, 4], [0.1, 0.1]])
    got = merged(("robustmerge", {"keep": 0.25}), [one])
    assert torch.allclose(got, torch.tensor([[16, 16], [0, 0]]).double())
    nothing = Factors(FIRST.b, torch.zeros_like(FIRST.a))
    assert torch.equal(merged(("robustmerge", {}), [nothing]), torch.zeros(2, 2).double())


def test_scales_are_folded_into_b() -> None:
    """An adapter of scale 3 is one whose B is three times as large."""
    scaled = Factors(FIRST.b, FIRST.a, 3.0)
    folded = Factors(FIRST.b * 3, FIRST.a)
    for variant in ("code", "paper"):
        step = ("robustmerge", {"variant": variant})
        assert torch.allclose(merged(step, [scaled, SECOND]), merged(step, [folded, SECOND]))


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_ranks_may_differ(variant: str) -> None:
    """A direction that one adapter has is its own: T = 1 there, as if it were alone.

    All is kept, so S = 1. Ranks 1 and 2; the second direction is (0,1)(8,4) whole.
    """
    first = Factors(FIRST.b[:, :1], FIRST.a[:1])
    values = {"variant": variant, "keep": 1.0, "scale": 1.0}
    found = made(("robustmerge", values), [first, SECOND])
    assert found.rank == (2 if variant == "code" else 3)
    assert torch.allclose(found.dense()[1], torch.tensor([8, 4]).double())


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_a_negative_weight_takes_away(variant: str) -> None:
    """Of one adapter, weight -1 turns the sign of the update and nothing else."""
    parts = updates(1)
    plus, minus = (merged(("robustmerge", {"variant": variant, "weight": (w,)}), parts) for w in (1.0, -1.0))
    assert torch.equal(plus, -minus)
