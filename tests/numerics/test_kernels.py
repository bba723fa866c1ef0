"""The fused loops by hand: combinations, measures, parts and draws. Laws hold them to torch on every dtype."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from eutectic.numerics import kernels
from eutectic.numerics.draw import Key
from eutectic.numerics.kernels import BINS, BLOCK, CODES, GRAIN, Rows
from eutectic.numerics.stages import (
    Combination,
    Drop,
    Marks,
    RankedBand,
    RankedDrop,
    Scale,
    Select,
    Trim,
    apply,
)
from tests.make.memory import NAMES, TORCH, to_bytes


def rows(tensors: list[torch.Tensor], *, base: bool = True, start: int = 0, **how: Any) -> Rows:
    """Returns tensors as one slice."""
    parts, offsets, at = [], [], 0
    for tensor in tensors:
        raw = to_bytes(tensor)
        raw = np.concatenate([raw, np.zeros(-len(raw) % 64, np.uint8)])
        parts.append(raw)
        offsets.append(at)
        at += len(raw)
    codes = [CODES[NAMES[tensor.dtype]] for tensor in tensors]
    models = np.zeros(len(tensors) - base, np.bool_)
    place = np.array(offsets, np.int64), np.array(codes, np.int64), models
    return Rows(np.concatenate(parts), *place, base, start, tensors[0].numel(), how.pop("key", Key(0, "w")), **how)


def combine(slice_: Rows, how: Combination) -> list[float]:
    """Returns the combined slice as numbers."""
    out = np.zeros(4 * slice_.count, np.uint8)
    kernels.combine(slice_, how, out, CODES["F32"])
    return out.view(np.float32).tolist()


def test_a_combination_by_hand() -> None:
    """2 * base + 0.5 * (1 * d1 - 1 * d2) of base (1, 2), models (2, 2) and (4, 1)."""
    three = rows([torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0]), torch.tensor([4.0, 1.0])])
    assert combine(three, Combination((1.0, -1.0), "deltas", anchor=2.0, scale=0.5)) == [1.0, 4.5]


def test_averages_by_hand() -> None:
    """Deltas 4, 1, -2 with weights 1, 2, 1 elect plus: 4 and 2 * 1 agree; a sum of 6 over 2 models of weight 3."""
    four = rows([torch.zeros(1), torch.tensor([4.0]), torch.tensor([1.0]), torch.tensor([-2.0])])
    weight = (1.0, 2.0, 1.0)
    means = {"sum": 4.0, "agree_sum": 6.0, "agree_count": 3.0, "agree_weight": 2.0, "agree_max": 4.0}
    for average, expected in means.items():
        assert combine(four, Combination(weight, "deltas", average=average)) == [expected]  # type: ignore[arg-type]


def test_unified_and_marks_by_hand() -> None:
    """Deltas 4, 1, -2 elect 4, which the first two agree with; 1, 1, -2 sum to zero, which elects -2; no one has 0s."""
    deltas = [[4.0, 1.0, 0.0], [1.0, 1.0, 0.0], [-2.0, -2.0, 0.0]]
    four = rows([torch.zeros(3), *map(torch.tensor, deltas)])
    out, marked = np.zeros(12, np.uint8), np.full(3, 255, np.uint8)
    how = Combination((1.0,) * 3, "deltas", average="unified", marks=Marks("agrees"))
    kernels.combine(four, how, out, CODES["F32"], marked)
    assert out.view(np.float32).tolist() == [4, -2, 0]
    assert marked.tolist() == [0b001, 0b001, 0b010]
    assert kernels.elected(four).tolist() == [[[5, 2, 4], [4, 4, 2]]]


def test_marks_of_what_is_near_by_hand() -> None:
    """The sum of 4, 0 and 1, 1 is 5, 1: |4| > 0.5 * 1, not |0| > 0.5 * 1; not |1| > 0.5 * 4, |1| > 0; one each."""
    three = rows([torch.ones(2), torch.tensor([5.0, 1.0]), torch.tensor([2.0, 2.0])])
    for least, expected in ((0, [11, 3]), (1, [11, 3]), (2, [1, 1])):
        marked = np.zeros(2, np.uint8)
        out = np.zeros(8, np.uint8)
        how = Combination((1.0, 1.0), "deltas", 1.0, 2.0, marks=Marks("near", (0.5, 0.5), least))
        kernels.combine(three, how, out, CODES["F32"], marked)
        assert out.view(np.float32).tolist() == expected
        assert marked.tolist() == [0b01, 0b10]
        if least:  # also where nobody asks for the bits
            assert combine(three, how) == expected


@pytest.mark.parametrize("count", [1, 7, 8, 9, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_bits_are_packed_lowest_first(count: int) -> None:
    """As numpy packs them, the rest of the last byte zero."""
    delta = torch.randint(0, 2, (count,), generator=torch.Generator().manual_seed(count)).float()
    marked = np.full(-(-count // 8), 255, np.uint8)
    how = Combination((1.0,), "deltas", average="unified", marks=Marks("agrees"))
    kernels.combine(rows([torch.zeros(count), delta]), how, np.zeros(4 * count, np.uint8), CODES["F32"], marked)
    assert np.array_equal(marked, np.packbits(delta.numpy() > 0, bitorder="little"))


@pytest.mark.parametrize(("tie", "expected"), [(0, 0.0), (1, 3.0), (-1, -3.0)])
def test_ties_by_hand(tie: int, expected: float) -> None:
    """Deltas 3 and -3 vote to exactly zero."""
    three = rows([torch.zeros(1), torch.tensor([3.0]), torch.tensor([-3.0])])
    for average in ("agree_sum", "agree_count", "agree_weight", "agree_max"):
        assert combine(three, Combination((1.0, 1.0), "deltas", average=average, tie=tie)) == [expected]  # type: ignore[arg-type]


def test_stages_by_hand() -> None:
    """Trim at 2, then scale by 10, of deltas 1, 2, -3."""
    slice_ = rows([torch.tensor([5.0, 5.0, 5.0]), torch.tensor([6.0, 7.0, 2.0])]).then(Trim((2.0,)), Scale((10.0,)))
    assert combine(slice_, Combination((1.0,), "deltas")) == [0.0, 20.0, -30.0]
    assert combine(slice_, Combination((1.0,), "weights")) == [5.0, 25.0, -25.0]


def test_measures_by_hand() -> None:
    """Inner products, energies, masses and votes of deltas (1, -2) and (3, 0) around (1, 1)."""
    three = rows([torch.tensor([1.0, 1.0]), torch.tensor([2.0, -1.0]), torch.tensor([4.0, 1.0])])
    assert kernels.gram(three, False).tolist() == [[[5.0, 3.0], [3.0, 9.0]]]
    assert kernels.gram(three, True).tolist() == [[[2.0, 1.0, 5.0], [1.0, 5.0, 7.0], [5.0, 7.0, 17.0]]]
    assert kernels.energy(three, False).tolist() == [[5.0, 9.0]]
    assert kernels.energy(three, True).tolist() == [[2.0, 5.0, 17.0]]
    assert kernels.mass(three).tolist() == [[3.0, 3.0]]
    assert kernels.votes(three, (1.0, 1.0)) == 0  # 4 elects plus, -2 minus
    assert kernels.votes(three, (0.0, 1.0)) == 1


@pytest.mark.parametrize("double", [False, True])
def test_magnitudes_by_hand(double: bool) -> None:
    """Patterns of 1, 2 and 4 in a window of one pattern a bin that starts at 2; 1 lies below it and 4 beyond."""
    work = np.float64 if double else np.float32
    two = int(np.array([2.0], work).view(np.uint64 if double else np.uint32)[0])
    slice_ = rows([torch.zeros(4), torch.tensor([1.0, -2.0, 2.0, 4.0])], double=double)
    below, bins = np.zeros(1, np.int64), np.zeros((1, BINS), np.int64)
    kernels.magnitudes(slice_, np.array([two], np.uint64), np.array([0]), below, bins)
    assert (below[0], bins[0, 0], bins.sum()) == (1, 2, 2)


@pytest.mark.parametrize("cut", [(0, 1), (GRAIN, GRAIN + 5), (0, GRAIN), (GRAIN, 2 * GRAIN + 9)])
def test_parts_of_a_slice(cut: tuple[int, int]) -> None:
    """A part is what reading those elements alone would have given, its draws included."""
    source = torch.Generator().manual_seed(3)
    base, model = (torch.randn(2 * GRAIN + 9, generator=source) for _ in range(2))
    drop = Drop((0.5,), (2.0,), 0)
    part = rows([base, model]).then(drop).part(*cut)
    alone = rows([base[slice(*cut)], model[slice(*cut)]], start=cut[0]).then(drop)
    how = Combination((1.0,), "deltas", anchor=1.0)
    assert combine(part, how) == combine(alone, how)


# ---- draws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, GRAIN, (1 << 32) - GRAIN, 1 << 32, 5 * (1 << 32) + GRAIN, 1 << 40])
@pytest.mark.parametrize("density", [0.0, 1e-9, 0.1, 0.5, 0.9, 1.0])
def test_draws_agree_with_torch(start: int, density: float) -> None:
    """The loops keep the elements that `Key.keep` keeps, also beyond 2**32 of them and across it."""
    count = GRAIN + BLOCK + 3
    key = Key(7, "some.tensor", 2, start)
    slice_ = rows([torch.zeros(count), torch.ones(count), torch.ones(count)], start=start, key=key)
    drop = Drop((density, 0.25), (1.0, 1.0), 2)
    # Model one counts 1 and model two 2, so that the result says which were kept.
    found = combine(slice_.then(drop), Combination((1.0, 2.0), "deltas"))
    kept = key.keep((density, 0.25), torch.ones(2, count)).float()
    assert found == (kept[0] + 2 * kept[1]).tolist()


def test_edges_of_stored_types() -> None:
    """Every pair of stored types can meet in one slice."""
    for first, second in itertools.product(TORCH, repeat=2):
        two = rows([torch.tensor([1.5], dtype=TORCH[first]), torch.tensor([2.5], dtype=TORCH[second])])
        assert combine(two, Combination((1.0,), "deltas", anchor=1.0)) == [2.5]


def test_what_needs_no_vote_by_hand() -> None:
    """The largest of 4 and -5 is -5, of -2 and 2 the later; 3 alone is weighted, where two are active they average."""
    base, first, second = torch.zeros(3), torch.tensor([4.0, -2.0, 0.0]), torch.tensor([-5.0, 2.0, 3.0])
    three = rows([base, first, second])
    assert combine(three, Combination((1.0, 1.0), "deltas", average="largest")) == [-5, 2, 3]
    assert combine(three, Combination((2.0, 1.0), "deltas", average="largest")) == [8, -4, 3]
    assert combine(three, Combination((2.0, 10.0), "deltas", average="active")) == [-0.5, 0, 30]


def test_a_plain_vote_by_hand() -> None:
    """3 outvotes -2 as they are, though it weighs a tenth; a floor of 0.5 is the least that divides."""
    three = rows([torch.zeros(1), torch.tensor([3.0]), torch.tensor([-2.0])])
    plain = Combination((0.1, 0.9), "deltas", average="agree_weight", vote="plain")
    assert combine(three, plain) == pytest.approx([3.0])
    assert combine(three, Combination((0.1, 0.9), "deltas", average="agree_weight")) == pytest.approx([-2.0])
    floored = Combination((0.1, 0.9), "deltas", average="agree_weight", vote="plain", floor=0.5)
    assert combine(three, floored) == pytest.approx([0.3 / 0.5])


def test_selection_looks_at_all_models() -> None:
    """1 and 5 lie 4 apart, 2 and 2 nowhere: only the first element is left, of both."""
    three = rows([torch.zeros(2), torch.tensor([1.0, 2.0]), torch.tensor([5.0, 2.0])])
    how = Combination((1.0, 10.0), "deltas", stages=(Select(8.0),))
    assert combine(three, how) == [51, 0]


@pytest.mark.parametrize("kind", ["usual", "equal", "few values", "brain floats", "crowded", "one large", "zeros"])
@pytest.mark.parametrize("width", [1, 2, 300, 5000])
@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_ranks_against_sorting(kind: str, width: int, double: bool) -> None:
    """Whether buckets decide, single elements are ranked or whole rows are sorted."""
    source = torch.Generator().manual_seed(width)
    work = torch.float64 if double else torch.float32
    deltas = torch.randn(2, 2, width, generator=source, dtype=work)
    deltas = {
        "usual": deltas,
        "equal": torch.full_like(deltas, -0.75),
        "few values": (deltas * 4).round() / 4,
        "brain floats": ((0.1 * deltas + 1).bfloat16() - 1).to(work),
        "crowded": 1 + deltas * 1e-3,
        "one large": deltas.where(torch.arange(width) > 0, 1e30),
        "zeros": deltas.where(deltas > 1, -0.0),
    }[kind]
    for stage in (
        RankedDrop((0.5, 0.3), (0.4, 0.1), False, 0),
        RankedDrop((0.5, 0.3), (0.4, 0.1), True, 0),
        RankedBand((0.5, 0.2), (0.1, 0.3)),
        RankedBand((0.9, 0.0), (0.3, 1.0), "kept"),
        RankedBand((0.7, 1.0), (0.01, 0.0)),
        RankedBand((0.02, 0.01), (0.5, 0.97)),
    ):
        flat = [row.reshape(-1) for row in deltas]
        given = rows([torch.zeros_like(flat[0]), *flat], width=width, double=double).then(stage)
        out = np.zeros(8 * given.count, np.uint8)
        kernels.combine(given, Combination((1.0, 1024.0), "deltas"), out, CODES["F64"])
        expected = apply(stage, deltas, Key(0, "w"))
        assert torch.equal(
            torch.from_numpy(out.view(np.float64)), (expected[0] + 1024 * expected[1]).reshape(-1).double()
        )


def test_draws_beyond_32_bits_of_an_index() -> None:
    """A block or a row across 2**32 elements draws as its elements do one by one."""
    count, start = 3000, 2**32 - 1500
    ones = torch.ones(count)
    expected = Key(0, "w", 0, start).keep((0.5,), ones[None])[0]
    given = rows([torch.zeros(count), ones], start=start).then(Drop((0.5,), (1.0,), 0))
    assert combine(given, Combination((1.0,), "deltas")) == expected.float().tolist()
    width = 3000
    first = start // width * width
    ranked = rows([torch.zeros(2 * width), torch.ones(2 * width)], start=first, width=width)
    drop = RankedDrop((0.5,), (0.25,), False, 0)
    expected = apply(drop, torch.ones(1, 2, width), Key(0, "w", 0, first)).reshape(-1)
    assert combine(ranked.then(drop), Combination((1.0,), "deltas")) == expected.tolist()
