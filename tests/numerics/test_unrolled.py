"""The unrolled loops against the general ones: the same bits, on every bfloat16 there is among ordinary ones."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eutectic.numerics import kernels, unrolled
from eutectic.numerics.draw import Key
from eutectic.numerics.kernels import CODES, GRAIN, Rows
from eutectic.numerics.stages import Combination, Drop, Scale, Stage, Trim

COUNT = 2 * GRAIN + 777
DROP, TRIM, SCALE = Drop((0.5, 0.3, 0.9), (2.0, 1.0, 0.5), 1), Trim((0.01, 0.0, 0.5)), Scale((0.5, -1.0, 3.0))
STAGES: list[tuple[Stage, ...]] = [(), (DROP,), (TRIM,), (SCALE,), (DROP, TRIM), (DROP, SCALE), (TRIM, SCALE)]


def rows_of(n: int, based: bool, start: int = 0, stages: tuple[Stage, ...] = ()) -> Rows:
    """Ordinary numbers, with all 65,536 bit patterns of bfloat16 in each row, in an order of its own."""
    rng = np.random.default_rng(n)
    rows = []
    for _ in range(n + based):
        ordinary = (rng.normal(0, 0.02, COUNT).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        ordinary[rng.permutation(COUNT)[: 1 << 16]] = np.arange(1 << 16, dtype=np.uint16)
        rows.append(ordinary)
    size = -(-2 * COUNT // 8) * 8
    arena = np.zeros(size * len(rows), np.uint8)
    for number, row in enumerate(rows):
        arena[number * size : number * size + 2 * COUNT] = row.view(np.uint8)
    offsets, codes = np.arange(len(rows)) * size, np.full(len(rows), CODES["BF16"])
    key = Key(7, "t")
    return Rows(arena, offsets, codes, np.zeros(n, np.bool_), based, start, COUNT, key, stages=stages)


def general(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends everything to the general loops from here on."""
    monkeypatch.setattr(kernels, "_common", lambda rows: False)


def check(rows: Rows, how: Combination, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that the common case is taken, and that its bits are those of the general loops."""
    out, expected = np.zeros(2 * COUNT, np.uint8), np.zeros(2 * COUNT, np.uint8)
    assert kernels._common(rows)
    bad = kernels._combine_common(rows, how, out.view(np.uint16))
    general(monkeypatch)
    assert bad == kernels.combine(rows, how, expected, CODES["BF16"])
    assert bad is not None
    assert bad > 0
    assert np.array_equal(numbers(out), numbers(expected))


def numbers(out: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Bit patterns, with all NaNs as one: which of two NaNs a sum keeps is the processor's choice."""
    bits = out.view(np.uint16).copy()
    bits[(bits & 0x7FFF) > 0x7F80] = 0x7FC0
    return bits


@pytest.mark.parametrize("n", [1, 2, 3, unrolled.MOST])
@pytest.mark.parametrize(("based", "anchor"), [(False, 0.0), (True, 0.0), (True, 0.4)])
def test_average(n: int, based: bool, anchor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weighted averages of the rows themselves, and the base with a weight of its own."""
    how = Combination(tuple(0.1 * (k + 1) for k in range(n)), "weights", anchor, scale=0.7)
    check(rows_of(n, based), how, monkeypatch)


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("start", [0, 5 * GRAIN, (1 << 33) + GRAIN])
def test_sums_of_deltas(stages: tuple[Stage, ...], start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of deltas around a base, after every chain of stages."""
    check(rows_of(3, True, start, stages), Combination((0.3, -0.2, 1.0), "deltas", 1.0, 0.5), monkeypatch)


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("average", ["agree_sum", "agree_count", "agree_weight"])
@pytest.mark.parametrize("tie", [-1, 0, 1])
def test_votes(stages: tuple[Stage, ...], average: str, tie: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elected signs, with every divisor and tie."""
    how = Combination((1.0, 1.0, 0.5), "deltas", 1.0, 2.0, average, tie)  # type: ignore[arg-type]
    check(rows_of(3, True, GRAIN, stages), how, monkeypatch)


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("tie", [-1, 0, 1])
@pytest.mark.parametrize(("vote", "floor"), [("plain", 0.0), ("plain", 0.6), ("weighted", 0.6)])
def test_plain_votes_and_least_divisors(
    stages: tuple[Stage, ...], tie: int, vote: Any, floor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signs elected by the deltas as they are, averaged by weight; shares that divide as a floor at least."""
    how = Combination((1.0, 0.3, 0.5), "deltas", 1.0, 2.0, "agree_weight", tie, vote=vote, floor=floor)
    check(rows_of(3, True, GRAIN, stages), how, monkeypatch)


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize(("low", "shift"), [(0, 13), (0x3B000000, 0), (0x7F800000 - (1 << 17), 3), (0x7FFFFFF0, 0)])
@pytest.mark.parametrize("every", [1, 8])
def test_counts(stages: tuple[Stage, ...], low: int, shift: int, every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts in windows at the bottom, in the middle, across infinity and at the top; all, or a sample."""
    rows = rows_of(3, True, GRAIN, stages).sampled(every)
    windows = np.array([low, low + 1, max(low - 1, 0)], np.uint64), np.full(3, shift)
    found = np.zeros(3, np.int64), np.zeros((3, kernels.BINS), np.int64)
    kernels.magnitudes(rows, *windows, *found)
    expected = np.zeros(3, np.int64), np.zeros((3, kernels.BINS), np.int64)
    general(monkeypatch)
    kernels.magnitudes(rows, *windows, *expected)
    assert found[0].tolist() == expected[0].tolist()
    assert np.array_equal(found[1], expected[1])


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("of_weights", [True, False])
@pytest.mark.parametrize("diagonal", [True, False])
def test_products(n: int, of_weights: bool, diagonal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inner products, of rows and of deltas."""
    rows = rows_of(n, True)
    for at in rows.offsets:  # what is not finite swallows every sum
        bits = rows.raw[at : at + 2 * COUNT].view(np.uint16)
        bits[(bits & 0x7F80) >= 0x7000] = 0
    found = kernels._products(rows, of_weights, diagonal)
    general(monkeypatch)
    expected = kernels._products(rows, of_weights, diagonal)
    assert np.isfinite(expected).all()
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("stages", STAGES)
def test_masses(stages: tuple[Stage, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of magnitudes after every chain of stages."""
    rows = rows_of(3, True, GRAIN, stages)
    for at in rows.offsets:  # what is not finite swallows every sum
        bits = rows.raw[at : at + 2 * COUNT].view(np.uint16)
        bits[(bits & 0x7F80) >= 0x7000] = 0
    found = kernels.mass(rows)
    general(monkeypatch)
    assert np.isfinite(found).all()
    assert np.array_equal(found, kernels.mass(rows))


def test_what_is_not_common() -> None:
    """Deltas, other types, and counters that carry within the slice go to the general loops."""
    assert kernels._common(rows_of(2, True))
    assert not kernels._common(rows_of(2, True, start=(1 << 32) - GRAIN))
    assert kernels._stages(rows_of(3, True, stages=(TRIM, DROP))) is None
    rows = rows_of(2, True)
    rows.is_delta[1] = True
    assert not kernels._common(rows)
    for how in (Combination((1.0,) * 3, "deltas"), Combination((1.0,) * 3, "deltas", 1.0, 1.0, "agree_max")):
        assert kernels._combine_common(rows_of(3, True), how, np.zeros(0, np.uint16)) is None
