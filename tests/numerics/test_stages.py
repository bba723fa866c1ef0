import numpy as np
import pytest
import torch

from eutectic.numerics.draw import Key
from eutectic.numerics.stages import (
    Band,
    Clip,
    Drop,
    RankedBand,
    RankedDrop,
    RowScale,
    RowTrim,
    Scale,
    Select,
    Trim,
    apply,
    at_step,
    band,
    column,
    row_factors,
    spread,
)


def test_column() -> None:
    """Numbers per model broadcast against (n, *shape), in its dtype."""
    like = torch.zeros(2, 3, 4, dtype=torch.float64)
    shaped = column((1.0, 2.0), like)
    assert shaped.shape == (2, 1, 1)
    assert shaped.dtype == torch.float64
    assert column((1.0, 2.0), torch.zeros(2)).shape == (2,)


def test_trim_by_hand() -> None:
    """What is smaller than the model's cut becomes zero; equal magnitudes and NaN stay."""
    deltas = torch.tensor([[1.0, -2.0, 3.0], [1.0, float("nan"), -0.5]])
    kept = apply(Trim((2.0, 0.75)), deltas, Key(0, "w"))
    assert kept[0].tolist() == [0.0, -2.0, 3.0]
    assert kept[1, [0, 2]].tolist() == [1.0, 0.0]
    assert kept[1, 1].isnan()


@pytest.mark.parametrize("cut", [0.0, float("inf")])
def test_trim_at_the_ends(cut: float) -> None:
    """A cut of zero keeps all, one of infinity only what is infinite."""
    deltas = torch.tensor([[0.0, -1e30, 1e-30, float("inf")]])
    expected = deltas if cut == 0 else torch.tensor([[0.0, 0.0, 0.0, float("inf")]])
    assert torch.equal(apply(Trim((cut,)), deltas, Key(0, "w")), expected)


def test_drop_by_hand() -> None:
    """Kept elements are multiplied by the factor and others are zero, also where they were infinite."""
    deltas = torch.full((2, 1000), 3.0)
    deltas[0, ::2] = float("inf")
    key = Key(4, "w", 0, 512)
    dropped = apply(Drop((0.5, 1.0), (2.0, 0.5), 1), deltas, key)
    mask = Key(4, "w", 1, 512).keep((0.5, 1.0), deltas)
    assert torch.equal(dropped, torch.where(mask, deltas * torch.tensor([[2.0], [0.5]]), torch.zeros(())))
    assert (dropped[1] == 1.5).all()
    assert (dropped[0] == 0).any()


def test_scale_by_hand() -> None:
    """Each model has its own factor."""
    assert apply(Scale((2.0, -1.0)), torch.ones(2, 2), Key(0, "w")).tolist() == [[2.0, 2.0], [-1.0, -1.0]]


def test_band_by_hand() -> None:
    """What is smaller or larger than the model's cuts becomes zero; what equals one stays, and so does NaN."""
    deltas = torch.tensor([[1.0, -2.0, 3.0, -4.0, float("nan")]])
    kept = apply(Band((2.0,), (3.0,)), deltas, Key(0, "w"))[0]
    assert kept[:4].tolist() == [0.0, -2.0, 3.0, 0.0]
    assert kept[4].isnan()
    assert (apply(Band((float("inf"),), (-1.0,)), deltas[:, :4], Key(0, "w")) == 0).all()


@pytest.mark.parametrize(
    ("shares", "first", "edges"),
    [
        ((0.5, 0.2), "removed", (3, 8)),
        ((0.8, 0.5), "removed", (0, 5)),  # 8 of the 5 that are left are 5
        ((0.8, 0.5), "kept", (0, 8)),
        ((0.0, 0.2), "removed", (8, 8)),
        ((0.29, 0.0), "removed", (8, 10)),
    ],
)
def test_ranks_of_a_band(shares: tuple[float, float], first: str, edges: tuple[int, int]) -> None:
    """Of ten: where what stays begins and ends."""
    assert band(10, *shares, first) == edges  # type: ignore[arg-type]


def test_spread_by_hand() -> None:
    """1, 2 and 6 lie 2, 1 and 3 from their mean: 14; equal ones lie nowhere apart."""
    deltas = torch.tensor([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]])
    assert spread(deltas).tolist() == [14.0, 0.0]
    assert apply(Select(14.0), deltas, Key(0, "w")).tolist() == [[1, 0], [2, 0], [6, 0]]


def test_chances_rise_with_the_rank() -> None:
    """From density - epsilon to density + epsilon; a row of one has the density."""
    limits, factors = RankedDrop((0.5, 0.0, 1.0), (0.25, 0.25, 0.25), True, 0).chances(3)
    assert limits.tolist() == [[2**30, 2**31, 3 * 2**30], [0, 0, 0], [2**32] * 3]
    assert factors.tolist() == [[4.0, 2.0, 4 / 3], [1.0] * 3, [1.0] * 3]
    assert RankedDrop((0.25,), (0.1,), False, 0).chances(1)[0].tolist() == [[2**30]]


def test_ranks_are_taken_in_each_row() -> None:
    """Of each row's three the middle one is kept, with one gone above and one left out below."""
    rows = torch.tensor([[[3.0, -1.0, 2.0], [7.0, 8.0, -9.0]]])
    assert apply(RankedBand((0.34,), (0.34,)), rows, Key(0, "w")).tolist() == [[[0, 0, 2], [0, 8, 0]]]


def test_stages_that_draw_are_moved() -> None:
    """To the chain position where they are asked for; others stay what they are."""
    assert at_step(Drop((0.5,), (1.0,), 0), 3) == Drop((0.5,), (1.0,), 3)
    assert at_step(Trim((0.5,)), 3) == Trim((0.5,))


def test_clip_by_hand() -> None:
    """Each model has its own limit on either side; NaN stays."""
    found = apply(Clip((2.0, 0.5)), torch.tensor([[3.0, -1.0], [-4.0, float("nan")]]), Key(0, "w"))
    assert found[0].tolist() == [2.0, -1.0]
    assert found[1, 0] == -0.5
    assert found[1, 1].isnan()


def test_row_factors() -> None:
    """Elements 4 to 8 of rows of three lie in rows 1, 1, 2, 2, 2, whatever shape they are shown in."""
    factor = np.array([1.0, 10.0, 100.0])
    flat = row_factors(factor, 3, torch.zeros(2, 5), 4)
    assert flat.tolist() == [10.0, 10.0, 100.0, 100.0, 100.0]
    assert row_factors(factor, 3, torch.zeros(1, 2, 3), 3).tolist() == [[10.0] * 3, [100.0] * 3]


def test_stages_by_row_by_hand() -> None:
    """A factor multiplies its row; a trim weighs by it, and keeps what it keeps as it is; NaN stays."""
    factor = np.array([1.0, 10.0])
    deltas = torch.tensor([[0.5, -2.0, 0.5, -0.05], [1.0, 0.0, float("nan"), -0.1]])
    assert apply(RowScale(factor, 2), deltas, Key(0, "w"))[0].tolist() == [0.5, -2.0, 5.0, -0.5]
    kept = apply(RowTrim(1.0, factor, 2), deltas, Key(0, "w"))
    assert kept[0].tolist() == [0.0, -2.0, 0.5, 0.0]
    assert kept[1, [0, 1, 3]].tolist() == [1.0, 0.0, deltas[1, 3].item()]
    assert kept[1, 2].isnan()
