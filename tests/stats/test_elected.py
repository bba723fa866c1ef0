import numpy as np
import torch

from eutectic.stats.elected import Elected, agreeing, elect
from eutectic.stats.fold import Part, Scope
from tests.make.sites import table

DELTAS = torch.stack([table([3, -2, 1, 0]), table([1, -4, -1, 0]), table([-2, 3, 0, 5])])


def test_elect_by_hand() -> None:
    """3 + 1 - 2 elects plus, -2 - 4 + 3 minus, 1 - 1 minus, 5 plus; the largest of that side, 0 where nobody is."""
    assert elect(DELTAS).tolist() == [[3, -4, -1, 5]]
    assert elect(table([1], [-1])).tolist() == [-1]
    assert elect(table([0], [0])).tolist() == [0]
    assert not elect(table([0], [-0.0])).signbit().any()
    assert elect(table([1, float("nan")], [2, 3])).isnan().tolist() == [False, True]


def test_agreeing_by_hand() -> None:
    """Zeros agree with nothing, and nothing with a zero."""
    found = agreeing(DELTAS, elect(DELTAS))
    assert found.int().tolist() == [[[1, 1, 0, 0]], [[1, 1, 1, 0]], [[0, 0, 0, 1]]]
    assert not agreeing(table([1], [-1]), torch.zeros(1)).any()


def test_means_and_sums() -> None:
    """Tensors of 4 and 1 elements, sums (6, 7) and (8, 8): means add up to 9.5 and 9.75; an empty one to nothing."""
    state = {
        "a": (4, np.array([[[6.0], [7.0]]])),
        "b": (1, np.array([[[8.0], [8.0]]])),
        "c": (0, np.zeros((0, 2, 1))),
    }
    assert Elected(Scope.MODEL, "mean").finish(state).tolist() == [[9.5], [9.75]]
    assert Elected(Scope.MODEL, "sum").finish(state).tolist() == [[14], [15]]
    only = {"c": state["c"]}
    assert Elected(Scope.MODEL, "mean").finish(only).tolist() == [[0], [0]]


def test_price() -> None:
    """Two numbers a model and grain of 65,536 elements."""
    parts = [Part.of("a", (65_537,)), Part.of("b", (3,))]
    assert Elected(Scope.MODEL).nbytes(parts, 3) == 3 * 2 * 3 * 8
