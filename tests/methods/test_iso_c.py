import pytest
import torch

from tests.make.sites import merge, table

EXACT = pytest.mark.parametrize("exact", [False, True], ids=["shortcut", "exact"])
BASE = table([1, -2], [0.5, 4])


def iso(deltas: list[torch.Tensor], **values: object) -> torch.Tensor:
    """Returns the merged delta."""
    return merge(("iso_c", values), [BASE + delta for delta in deltas], BASE) - BASE


@EXACT
def test_by_hand(exact: bool) -> None:
    """The deltas add up to [0 3; -1 0], with values 3 and 1 and U V^T = [0 1; -1 0]: the mean, 2, times that."""
    found = iso([table([1, 3], [0, 0]), table([-1, 0], [-1, 0])], exact=exact)
    assert torch.allclose(found, table([0, 2], [-2, 0]), atol=1e-5)


@EXACT
def test_a_direction_that_is_not_there_gets_nothing(exact: bool) -> None:
    """diag(4, 0): the mean over both values is 2, and the null direction stays null."""
    assert torch.allclose(iso([table([4, 0], [0, 0])], exact=exact), table([2, 0], [0, 0]), atol=1e-5)


def test_weight_and_scale() -> None:
    """diag(2, 0) * 3 + diag(0, 4) / 2 = diag(6, 2): mean 4, times the scale of 1/2."""
    found = iso([table([2, 0], [0, 0]), table([0, 0], [0, 4])], weight=(3.0, 0.5), scale=0.5)
    assert torch.allclose(found, table([2, 0], [0, 2]), atol=1e-5)


@EXACT
def test_deltas_that_cancel(exact: bool) -> None:
    """Their sum is nothing, and so is the merged delta."""
    one = table([1, 2], [3, 4])
    assert torch.allclose(iso([one, -one], exact=exact), torch.zeros(2, 2), atol=1e-5)
