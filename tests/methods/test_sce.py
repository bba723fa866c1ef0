import pytest
import torch

from tests.make.sites import merge, table

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
BASE = table([1, 1, 1, 1])
DELTAS = (table([4, 1, 2, 0]), table([-2, 1, 6, 0]))
#: A floor is an absolute size.
LAWS_ASIDE = {"floor": {"scale"}}


def sce(fused: bool, deltas: tuple[torch.Tensor, ...] = DELTAS, **values: object) -> list[float]:
    """Returns the merged delta of two models."""
    models = [BASE + delta for delta in deltas]
    found = merge(("sce", values), models, BASE, fused=fused, double=True, out="F64") - BASE
    return found[0].tolist()  # type: ignore[no-any-return]


@FUSED
def test_by_hand(fused: bool) -> None:
    """Squares add up to 21 and 41. Sums 2, 2, 8: all plus; 4 is the first's alone, and (21 * 2 + 41 * 6) / 62."""
    assert sce(fused) == pytest.approx([4, 1, 288 / 62, 0], rel=1e-14)


@FUSED
def test_the_vote_is_plain_and_the_average_weighted(fused: bool) -> None:
    """10 of the light model outvotes -9 of the one that weighs a hundred times more; -9 would win by weight."""
    deltas = (table([10, 0, 0, 0]), table([-9, 100, 0, 0]))
    assert sce(fused, deltas) == [10, 100, 0, 0]


@FUSED
def test_a_tie_goes_to_plus(fused: bool) -> None:
    """3 and -3."""
    assert sce(fused, (table([3, 0, 0, 0]), table([-3, 1, 0, 0]))) == [3, 1, 0, 0]


@FUSED
def test_selection_is_for_the_weights(fused: bool) -> None:
    """Spreads are 18, 0, 8, 0: of two that are not 0 half is one, the first, where squares are 16 and 4."""
    expected = [4, 1, (16 * 2 + 4 * 6) / 20, 0]
    assert sce(fused, select_topk=0.5) == pytest.approx(expected, rel=1e-14)
    assert sce(fused, select_topk=0.5, mask="deltas") == [4, 0, 0, 0]


@FUSED
def test_nothing_selected(fused: bool) -> None:
    """int(2 * 0.4) is none: all weigh alike, or with the deltas masked the base is left."""
    assert sce(fused, select_topk=0.4) == [4, 1, 4, 0]
    assert sce(fused, select_topk=0.4, mask="deltas") == [0, 0, 0, 0]
    assert sce(fused, select_topk=0.0, mask="deltas") == [0, 0, 0, 0]


@FUSED
def test_floor(fused: bool) -> None:
    """Mean squares of 21 / 4 and 41 / 4 add up to 15.5: with a floor of 16 all weigh alike and are divided by 16."""
    assert sce(fused, floor=15.0) == pytest.approx([4 * 21 / 62 / 15, 1 / 15, 288 / 62 / 15, 0], rel=1e-14)
    assert sce(fused, floor=16.0) == [4 * 0.5 / 16, 1 / 16, 4 / 16, 0]


@FUSED
def test_equal_spreads_are_all_selected(fused: bool) -> None:
    """Half of four is two, but all four are the second largest."""
    deltas = (table([1, 1, -1, -1]), table([-1, -1, 1, 1]))
    assert sce(fused, deltas, select_topk=0.5, mask="deltas") == [1, 1, 1, 1]
