import pytest
import torch

from eutectic.stats.fold import Calibrated, Of, Sees
from eutectic.stats.inputs import InputGram, InputMoments

ROWS = torch.randn(5000, 6, generator=torch.Generator().manual_seed(0))
BOTH = pytest.mark.parametrize("statistic", [InputGram(), InputMoments()], ids=["gram", "moments"])


def fold(statistic: Calibrated, pieces: list[torch.Tensor]) -> torch.Tensor:
    """The result of some rows, piece by piece."""
    state = statistic.init((6,))
    for piece in pieces:
        statistic.update(state, piece)
    return statistic.finish(state, sum(map(len, pieces)))


def test_by_hand() -> None:
    """Rows (1 2) and (3 4): the Gram matrix is (10 14; 14 20), sums are (4 6), sums of squares (10 20)."""
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    gram, moments = InputGram().init((2,)), InputMoments().init((2,))
    InputGram().update(gram, rows)
    InputMoments().update(moments, rows)
    assert InputGram().finish(gram, 2).tolist() == [[10, 14], [14, 20]]
    assert InputMoments().finish(moments, 2).tolist() == [[4, 6], [10, 20]]


@BOTH
def test_order_and_splitting_change_nothing(statistic: Calibrated) -> None:
    """Rows in any order and any pieces, and states joined: a relative 1e-6."""
    whole = fold(statistic, [ROWS])
    order = torch.randperm(len(ROWS), generator=torch.Generator().manual_seed(1))
    for pieces in (list(ROWS.split(7)), [ROWS[order]], list(ROWS[order].split(999))):
        assert float((fold(statistic, pieces) - whole).norm()) <= 1e-6 * float(whole.norm())
    left, right = statistic.init((6,)), statistic.init((6,))
    statistic.update(left, ROWS[:100])
    statistic.update(right, ROWS[100:])
    joined = statistic.finish(statistic.combine(left, right), len(ROWS))
    assert float((joined - whole).norm()) <= 1e-6 * float(whole.norm())


@BOTH
def test_groups_are_apart(statistic: Calibrated) -> None:
    """Rows of groups give a result a group."""
    rows = ROWS[:60].reshape(2, 30, 6)
    state = statistic.init((2, 6))
    statistic.update(state, rows)
    both = statistic.finish(state, 30)
    for group in range(2):
        one = fold(statistic, [rows[group]])
        assert torch.allclose(both[group] if isinstance(statistic, InputGram) else both[:, group], one, rtol=1e-5)


def test_what_they_take() -> None:
    """Gram matrices are of linear maps; moments also of what scales multiply. Whose weights is part of the value."""
    assert [InputGram().takes(each) for each in Sees] == [True, False, False]
    assert [InputMoments().takes(each) for each in Sees] == [True, True, False]
    assert [InputGram(of).of for of in ("each", "base", "merged")] == [Of.EACH, Of.BASE, Of.MERGED]
    assert InputGram("each") == InputGram() != InputGram("merged")
