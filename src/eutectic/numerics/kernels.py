"""Fused, thread-friendly loops over slices in their stored dtype: load, stages, then combine or measure.

Every public function works on `Rows`: the raw bytes of one slice of all models, the base first if there is one. Loops
run in blocks that stay in the first cache levels; nothing is allocated per call but the block scratch. They release the
interpreter lock, never reorder floating-point operations (no fastmath), and visit elements in index order, so a
result depends neither on slices nor on threads. Sums are kept per `GRAIN` elements, counted from the tensor's start,
for the same reason: whoever adds them later adds the same numbers in the same order.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eutectic.numerics import loops, rowloops, unrolled
from eutectic.numerics.draw import Key, threshold
from eutectic.numerics.stages import (
    Band,
    Clip,
    Combination,
    Drop,
    Ranked,
    RankedBand,
    RowScale,
    RowTrim,
    Scale,
    Select,
    Stage,
    Trim,
)

#: Elements per partial sum; slices start at multiples of it.
GRAIN = 65536
#: Elements per inner block of the loops.
BLOCK = loops.BLOCK
#: Bins of a magnitude window.
BINS = 1 << 18

CODES: dict[str, int] = {"F64": 0, "F32": 1, "F16": 2, "BF16": 3}
ITEMSIZE = (8, 4, 2, 2)
_MARKS = {None: 0, "agrees": 1, "near": 2}
_NO_BITS = np.zeros(0, np.uint8)
_AVERAGES = {
    "sum": loops.ALL,
    "agree_sum": loops.AGREE_SUM,
    "agree_count": loops.AGREE_COUNT,
    "agree_weight": loops.AGREE_WEIGHT,
    "agree_max": loops.AGREE_MAX,
    "unified": loops.UNIFIED,
    "plain": loops.AGREE_PLAIN,
    "active": loops.ACTIVE,
    "largest": loops.LARGEST,
}

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """One slice of one site, as it was read.

    Attributes:
        raw: a byte arena that holds every row.
        offsets: byte offset of each row in `raw`, base first when `has_base`; multiples of 8.
        codes: element type of each row, see `CODES`.
        is_delta: for each model (the base not counted), whether its row already is a difference from the base.
        has_base: whether row 0 is the base.
        start: index in the tensor of the slice's first element, a multiple of `GRAIN`.
        count: elements in the slice.
        key: the source of draws; its `start` is ignored.
        double: compute in float64 instead of float32.
        stages: applied to the deltas on load.
        every: a sample is wanted: counts look at one block in so many.
        width: elements of one of the tensor's rows, for stages that rank within rows.
        lead, tail: how many elements lie in `raw` before and behind the slice: the rest of its first and last row.
    """

    raw: Bytes
    offsets: Ints
    codes: Ints
    is_delta: NDArray[np.bool_]
    has_base: bool
    start: int
    count: int
    key: Key
    double: bool = False
    stages: tuple[Stage, ...] = ()
    every: int = 1
    width: int = 1
    lead: int = 0
    tail: int = 0

    @property
    def n(self) -> int:
        """Number of models, the base not counted."""
        return len(self.is_delta)

    def part(self, start: int, stop: int) -> "Rows":
        """Returns elements `start..stop` of this slice, counted from its first."""
        sizes = np.array([ITEMSIZE[code] for code in self.codes], dtype=np.int64)
        return replace(
            self,
            offsets=self.offsets + start * sizes,
            start=self.start + start,
            count=stop - start,
            lead=self.lead + start,
            tail=self.tail + self.count - stop,
        )

    def whole(self) -> "Rows":
        """Returns the rows of the tensor that this slice touches, from the first element to the last."""
        width = max(1, self.width)
        first = self.start // width * width - self.start
        last = -(-(self.start + self.count) // width) * width - self.start
        return self.part(first, last)

    def sampled(self, every: int) -> "Rows":
        """Returns the same slice, of which counts look at one block in `every`."""
        return replace(self, every=every)

    def then(self, *stages: Stage) -> "Rows":
        """Returns the same slice with more stages."""
        return replace(self, stages=self.stages + stages) if stages else self


Place = tuple[
    Bytes, Ints, Ints, NDArray[np.bool_], bool, int, int, Ints, Any, NDArray[np.uint32], Any, Any, Any, int, Any
]


def _place(rows: Rows, kept: int = 0) -> Place:
    """What every loop takes: where the rows are, the stages as arrays, ranked stages' factors, and scratch."""
    kinds, numbers, keys = _table(rows)
    ranked = [at for at, stage in enumerate(rows.stages) if isinstance(stage, Ranked)]
    if not ranked:
        return _placed(rows, kinds, numbers, keys, np.zeros((0, 0, 0), _work(rows)), kept)
    whole = rows.whole()
    # A loop goes over whole blocks, whatever lies behind the last element.
    marks = np.zeros((len(ranked), rows.n, whole.count + loops.BLOCK), _work(rows))
    for number, at in enumerate(ranked):
        place = _placed(whole, kinds, numbers, keys, marks, 0)
        stage, width = rows.stages[at], max(1, rows.width)
        assert isinstance(stage, Ranked)
        streams = rows.key.at(stage.step).streams(rows.n)
        loops.rank(place, at, width, streams, *_by_rank(stage, width, rows.double), marks[number])
        keys[at, :, 0], keys[at, :, 1] = number, 0  # later stages' ranks are taken over the same whole rows
    keys[ranked, :, 1] = rows.start - whole.start
    return _placed(rows, kinds, numbers, keys, marks, kept)


@lru_cache(16)
def _by_rank(stage: Ranked, width: int, double: bool) -> tuple[Ints, Any, Ints, Ints]:
    """What a ranked stage does by rank: limits of draws, factors, where a limit is highest, and ranks that are kept."""
    limits, factors = stage.chances(width)
    peaks = np.where(np.ptp(factors, axis=1) == 0, limits.argmax(1), -1)
    bands = stage.edges(width) if isinstance(stage, RankedBand) else np.full((len(limits), 2), -1, np.int64)
    return limits, factors.astype(np.float64 if double else np.float32), peaks, bands


def _work(rows: Rows) -> Any:
    return np.float64 if rows.double else np.float32


def _placed(rows: Rows, kinds: Ints, numbers: Any, keys: NDArray[np.uint32], marks: Any, kept: int) -> Place:
    bits, scratch = np.zeros(loops.BLOCK, np.uint32), np.zeros(loops.KEPT + kept * loops.BLOCK, _work(rows))
    rows_of = (rows.raw, rows.offsets, rows.codes, rows.is_delta, rows.has_base, rows.start, rows.count)
    by_row = [stage for stage in rows.stages if isinstance(stage, RowScale | RowTrim)]
    assert len(by_row) < 2, "one stage by rows in a chain"
    factors, width = (by_row[0].factor, by_row[0].width) if by_row else (np.zeros(0), 1)
    return (*rows_of, kinds, numbers, keys, bits, scratch, factors.astype(_work(rows)), width, marks)


def _table(rows: Rows) -> tuple[Ints, Any, NDArray[np.uint32]]:
    """Writes the stages as arrays: kinds (k), numbers (k, n, 2), and (k, n, 3) draw keys or places in the marks."""
    k, n = len(rows.stages), rows.n
    kinds, numbers = np.zeros(k, np.int64), np.zeros((k, n, 2), np.float64)
    keys = np.zeros((k, n, 3), np.uint32)
    for at, stage in enumerate(rows.stages):
        if isinstance(stage, Trim):
            kinds[at], numbers[at, :, 0] = loops.TRIM, stage.cut
        elif isinstance(stage, Band):
            kinds[at], numbers[at, :, 0], numbers[at, :, 1] = loops.BAND, stage.low, stage.high
        elif isinstance(stage, Select):
            kinds[at], numbers[at, :, 0] = loops.SELECT, stage.cut
        elif isinstance(stage, Ranked):
            kinds[at] = loops.RANKED
        elif isinstance(stage, Scale):
            kinds[at], numbers[at, :, 0] = loops.SCALE, stage.factor
        elif isinstance(stage, Clip):
            kinds[at], numbers[at, :, 0] = loops.CLIP, stage.limit
        elif isinstance(stage, RowScale):
            kinds[at] = loops.ROW_SCALE
        elif isinstance(stage, RowTrim):
            kinds[at], numbers[at, :, 0] = loops.ROW_TRIM, stage.cut
        elif isinstance(stage, Drop):
            limits = np.array([threshold(density) for density in stage.density])
            kinds[at], numbers[at, :, 0] = loops.DROP, np.where(limits > 0, stage.factor, 0.0)
            keys[at, :, :2] = rows.key.at(stage.step).streams(n)
            keys[at, :, 2] = np.maximum(limits, 1) - 1  # the last draw that keeps: the first that drops may not fit
    return kinds, numbers.astype(_work(rows)), keys


def _chunks(rows: Rows) -> Iterator[Rows]:
    """Cuts a slice so that the factors of ranked stages stay in the cache; others need no cutting."""
    if not any(isinstance(stage, Ranked) for stage in rows.stages):
        yield rows
        return
    step = rows.every * loops.BLOCK if rows.every > 1 else GRAIN
    for start in range(0, max(1, rows.count), step):
        stop = min(rows.count, start + (loops.BLOCK if rows.every > 1 else GRAIN))
        yield replace(rows.part(start, stop), every=1)


def warm(double: bool) -> None:
    """Fetches a precision's compiled loops from their cache on disk, or compiles them (seconds, once a machine)."""
    none, no = np.zeros(0, np.int64), np.zeros(0, np.bool_)
    rows = Rows(np.zeros(0, np.uint8), none, none, no, False, 0, 0, Key(0, ""), double)
    combine(rows, Combination((), "weights"), np.zeros(0, np.uint8), CODES["F32"])


def combine(rows: Rows, how: Combination, out: Bytes, out_code: int, marked: Bytes = _NO_BITS) -> int:
    """Writes the combined slice to `out` in the output dtype, rounded once.

    `marked` takes the bits of `how.marks`, model after model, each in whole bytes; they are not made where it is empty.

    Returns:
        How many elements of the result are NaN or infinite.
    """
    if how.marks is None and out_code == CODES["BF16"] and _common(rows) and rows.n <= unrolled.MOST:
        bad = _combine_common(rows.then(*how.stages), how, out.view(np.uint16))
        if bad is not None:
            return bad
    marks = how.marks if how.marks is not None and (len(marked) or how.marks.least) else None
    kind, least = (0, 0) if marks is None else (_MARKS[marks.where], marks.least)
    average = _AVERAGES["plain" if how.vote == "plain" else how.average]
    settings = np.array([average, how.tie, how.of == "deltas", kind, least], np.int64)
    weight = np.array(how.weight).astype(_work(rows))
    scales = np.array([how.anchor, how.scale, how.floor]).astype(_work(rows))
    share = np.array(marks.share if marks is not None else ()).astype(_work(rows))
    size, own = ITEMSIZE[out_code], len(rows.stages)
    lost = 0
    # Marks are laid out model after model over the slice, so it stays in one piece where they are made.
    whole = rows.then(*how.stages)
    for part in [whole] if len(marked) else _chunks(whole):
        place = _place(part, rows.n if how.average == "unified" else 0)
        # The same rows and scratch, without the stages of the combination itself.
        bare = (*place[:7], place[7][:own], place[8][:own], place[9][:own], *place[10:])
        first = (part.start - rows.start) * size
        target = out[first : first + part.count * size]
        lost += int(loops.combine(place, bare, weight, scales, settings, share, marked, target, out_code))
    return lost


def gram(rows: Rows, of_weights: bool) -> Floats:
    """Sums of products of all pairs of rows per `GRAIN` elements: (grains, p, p), symmetric.

    `of_weights` takes the base and the models themselves (p = n + 1, or n without a base); otherwise the n deltas
    after the stages.
    """
    return _products(rows, of_weights, False)


def energy(rows: Rows, of_weights: bool) -> Floats:
    """Sums of squares of the rows `gram` takes, per `GRAIN` elements: (grains, p)."""
    return np.ascontiguousarray(np.diagonal(_products(rows, of_weights, True), axis1=1, axis2=2))


def _products(rows: Rows, of_weights: bool, diagonal: bool) -> Floats:
    p = rows.n + (1 if of_weights and rows.has_base else 0)
    out = np.zeros((-(-rows.count // GRAIN), p, p), np.float64)
    if _common(rows) and 0 < p <= unrolled.MOST + 1 and not rows.stages and (of_weights or rows.has_base):
        arrays = _arrays(rows)
        base, shown = (None, arrays) if of_weights else (arrays[0], arrays[1:])
        if of_weights and len(shown) == 2 and not diagonal:
            unrolled.pairs(*shown, out)
            return out
        unrolled.gram(base, shown, diagonal, out)
        return out
    for part in _chunks(rows):
        loops.gram(_place(part, p), of_weights, diagonal, _from_grain(out, rows, part))
    return out


def _from_grain(out: Floats, rows: Rows, part: Rows) -> Floats:
    """Returns the sums of a slice from the grain on in which a part of it begins."""
    return out[(part.start - rows.start) // GRAIN :]


def divergence(rows: Rows, width: int, eps: float) -> Floats:
    """The divergence of each row of the first model from the base's, as softmaxes with `eps` added: (rows,).

    The slice holds whole rows of `width` elements, and the base.
    """
    out = np.zeros(rows.count // width, np.float64)
    rowloops.divergence(_place(rows), width, eps, out)
    return out


def mass(rows: Rows) -> Floats:
    """Sums of magnitudes of the deltas after the stages, per `GRAIN` elements: (grains, n)."""
    out = np.zeros((-(-rows.count // GRAIN), rows.n), np.float64)
    if _common(rows) and rows.has_base and (stages := _stages(rows)) is not None:
        base, *models = _arrays(rows)
        for j, row in enumerate(models):
            unrolled.mass(base, row, *_of_one(stages, j), out[:, j])
        return out
    for part in _chunks(rows):
        loops.mass(_place(part), _from_grain(out, rows, part))
    return out


def elected(rows: Rows) -> Floats:
    """Sums of magnitudes per `GRAIN` elements, (grains, 2, n): of each model's deltas, and of what it has elected.

    The elected value of an element is the largest delta of the sign that their sum has, minus where that is zero; a
    model has elected it where its own delta has that sign.
    """
    out = np.zeros((-(-rows.count // GRAIN), 2, rows.n), np.float64)
    loops.elected(_place(rows, rows.n), out)
    return out


def magnitudes(rows: Rows, low: NDArray[np.uint64], shift: Ints, below: Ints, bins: Ints) -> None:
    """Counts magnitudes in k windows per model, adding to `below` (k n) and `bins` (k n, BINS).

    A magnitude is the bit pattern of |delta| in the work dtype, whose order is the order of the values. Window i is one
    of model i % n; its bin b holds patterns p with `(p - low[i]) >> shift[i] == b`; `below` counts those under it.
    """
    if _common(rows) and rows.has_base and (stages := _stages(rows)) is not None:
        _count_common(rows, stages, low, shift, below, bins)
        return
    count = loops.magnitudes64 if rows.double else loops.magnitudes32
    for part in _chunks(rows):
        count(_place(part), low, shift, below, bins, part.every)


def tally(patterns: NDArray[np.uint64], low: NDArray[np.uint64], shift: Ints, below: Ints, bins: Ints) -> None:
    """Counts patterns (n, elements) that were made elsewhere, as `magnitudes` counts those of the deltas."""
    loops.tally(patterns, low, shift, below, bins)


def spreads(rows: Rows, low: NDArray[np.uint64], shift: Ints, below: Ints, bins: Ints) -> int:
    """Counts the elements' spreads over the models in one window, as `magnitudes` does; returns how many are 0."""
    count = loops.spreads64 if rows.double else loops.spreads32
    return sum(int(count(_place(part), low, shift, below, bins, part.every)) for part in _chunks(rows))


def overlaps(rows: Rows) -> Ints:
    """Counts, (n, 2), of each model's deltas those that are not zero, and those where no other model's is not."""
    out = np.zeros((rows.n, 2), np.int64)
    for part in _chunks(rows):
        loops.overlaps(_place(part), out)
    return out


def votes(rows: Rows, weight: tuple[float, ...]) -> int:
    """Returns how many elements elect plus, less how many elect minus, by the weighted mass of the deltas."""
    shares = np.array(weight).astype(_work(rows))
    return sum(int(loops.votes(_place(part), shares)) for part in _chunks(rows))


# ---- the common case -----------------------------------------------------------------------------------------------

Singles = tuple[np.float32, ...]
Words = tuple[np.uint32, ...]
#: What `unrolled` takes for stages: draws (two keys, the last draw kept, a factor), and trims (cuts, factors).
Stages = tuple[tuple[Words, Words, Words, Singles] | None, tuple[Singles, Singles] | None]


def _common(rows: Rows) -> bool:
    """Whether all rows are in bfloat16, none is a delta already, and draws' counters do not carry within the slice."""
    carries = rows.start >> 32 != (rows.start + rows.count) >> 32
    return not (rows.double or carries or rows.is_delta.any()) and bool((rows.codes == CODES["BF16"]).all())


def _arrays(rows: Rows) -> tuple[NDArray[np.uint16], ...]:
    """The rows as arrays, base first."""
    return tuple(rows.raw[at : at + 2 * rows.count].view(np.uint16) for at in rows.offsets.tolist())


def _singles(numbers: Any) -> Singles:
    return tuple(np.asarray(numbers).astype(np.float32))


def _stages(rows: Rows) -> Stages | None:
    """Returns the stages as `unrolled` takes them; None when they are not a drop, a trim and a scale, in this order."""
    kinds, numbers, keys = _table(rows)
    found = kinds.tolist()
    if found not in (
        [],
        [loops.DROP],
        [loops.TRIM],
        [loops.SCALE],
        [loops.DROP, loops.TRIM],
        [loops.DROP, loops.SCALE],
        [loops.TRIM, loops.SCALE],
    ):
        return None
    draws: tuple[Words, Words, Words, Singles] | None = None
    cuts: Singles | None = None
    factors: Singles | None = None
    for kind, own, key in zip(found, numbers, keys, strict=True):
        if kind == loops.DROP:
            first = np.uint32(rows.start * 0x9E3779B1 & 0xFFFFFFFF)
            high = np.uint32((rows.start >> 32) * 0x85EBCA6B & 0xFFFFFFFF)
            draws = (tuple(key[:, 0] + first), tuple(key[:, 1] ^ high), tuple(key[:, 2]), _singles(own[:, 0]))
        elif kind == loops.TRIM:
            cuts = _singles(own[:, 0])
        else:
            factors = _singles(own[:, 0])
    if cuts is None and factors is None:
        return draws, None
    return draws, (cuts or _singles([0.0] * rows.n), factors or _singles([1.0] * rows.n))  # these change nothing


def _combine_common(rows: Rows, how: Combination, out: NDArray[np.uint16]) -> int | None:
    """Does what `combine` does; returns None when this is not the common case after all."""
    arrays, weight = _arrays(rows), _singles(how.weight)
    anchor, scale = _singles([how.anchor, how.scale])
    if how.of == "weights":
        if how.average != "sum" or rows.stages or (anchor != 0 and not rows.has_base):
            return None
        base = arrays[0] if anchor != 0 else None
        return int(unrolled.average(base, arrays[rows.has_base :], weight, (anchor, scale), out))
    stages = _stages(rows)
    shares = {"agree_sum": [0.0] * rows.n, "agree_count": [1.0] * rows.n, "agree_weight": how.weight}
    if stages is None or not rows.has_base or anchor == 0 or how.average not in {"sum", *shares}:
        return None
    if how.average == "sum":
        return int(unrolled.add(arrays[0], arrays[1:], *stages, weight, (anchor, scale), out))
    # What is None is left out of the compiled loop.
    plain = True if how.vote == "plain" else None
    floor = np.float32(how.floor) if how.floor and how.average == "agree_weight" else None
    votes = (weight, _singles(shares[how.average]), plain, how.tie, floor, (anchor, scale), out)
    return int(unrolled.elect(arrays[0], arrays[1:], *stages, *votes))


def _of_one(stages: Stages, j: int) -> tuple[np.float32, np.float32, tuple[Any, ...] | None]:
    """Returns the cut, the factor and the draws of one model."""
    draws, trims = stages
    cut, factor = (np.float32(0), np.float32(1)) if trims is None else (trims[0][j], trims[1][j])
    return cut, factor, None if draws is None else tuple(part[j] for part in draws)


def _count_common(rows: Rows, stages: Stages, low: NDArray[np.uint64], shift: Ints, below: Ints, bins: Ints) -> None:
    """Does what `magnitudes` does."""
    base, *models = _arrays(rows)
    for window in range(len(low)):
        j = window % len(models)
        room = 0xFFFFFFFF - int(low[window])
        width = np.uint32(min(room, (bins.shape[1] << int(shift[window])) - 1))
        lowest, by = np.uint32(low[window]), np.uint32(shift[window])
        counted = lowest, width, by, rows.every, bins[window]
        below[window] += unrolled.count(base, models[j], *_of_one(stages, j), *counted)
