"""Elect by hand, ties, and the TIES that it is the middle of."""

import pytest
import torch

from tests.make.sites import merge, table

BASE = table([1, 1, 1, 1])


def elected(*deltas: list[float], **values: object) -> torch.Tensor:
    """Returns the sum of what is left."""
    models = [BASE + table(delta) for delta in deltas]
    chain = [("elect", values), ("task_arithmetic", {})]
    return (merge(chain, models, BASE, fused=False, double=True, out="F64") - BASE)[0]


def test_by_hand() -> None:
    """Votes 4 - 1 + 1 = 4, -4 + 1 + 1 = -2, 2 - 2 = 0 and 0: plus, minus, nobody, nobody."""
    assert elected([4, -4, 2, 0], [-1, 1, -2, 0], [1, 1, 0, 0]).tolist() == [5, -4, 0, 0]


def test_ties() -> None:
    """The third vote is even. Of the other two elements both elect minus, so minus is the majority."""
    deltas = [-4.0, -4.0, 2.0, 0.0], [1.0, 1.0, -2.0, 0.0]
    assert elected(*deltas, tie="plus").tolist() == [-4, -4, 2, 0]
    assert elected(*deltas, tie="majority").tolist() == [-4, -4, -2, 0]


def test_one_model_is_left_as_it_is() -> None:
    """Nobody votes against it."""
    assert elected([4, -4, 2, 0]).tolist() == [4, -4, 2, 0]


def test_a_nan_is_seen() -> None:
    """It stays, in all models."""
    assert elected([4, float("nan"), 2, 0], [1, 1, 1, 1]).isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize("tie", ["nobody", "majority"])
def test_behind_trim_and_summed_it_is_ties(tie: str) -> None:
    """TIES with `average: sum` is the sum of what trim and elect leave."""
    source = torch.Generator().manual_seed(0)
    base, *models = (torch.randint(-32, 33, (16, 8), generator=source).double() / 8 for _ in range(4))
    chain = [("trim", {"density": 0.4}), ("elect", {"tie": tie}), ("task_arithmetic", {})]
    whole = [("ties", {"density": 0.4, "average": "sum", "tie": tie})]
    ours, theirs = (merge(each, models, base, fused=False, double=True, out="F64") for each in (chain, whole))
    assert torch.equal(ours, theirs)
