"""Fused, thread-friendly loops over slices in their stored dtype: load, stages, then combine or measure.

Every public function works on `Rows`: the raw bytes of one slice of all models, the base first if there is one. Loops
run in blocks that stay in the first cache levels; nothing is allocated per call but the block scratch. They release the
interpreter lock, never reorder floating-point operations (no fastmath), and visit elements in index order, so a
result depends neither on slices nor on threads. Sums are kept per `GRAIN` elements, counted from the tensor's start,
for the same reason: whoever adds them later adds the same numbers in the same order.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eutectic.numerics import loops, rowloops, unrolled
from eutectic.numerics.draw import Key, threshold
from eutectic.numerics.stages import Clip, Combination, Drop, RowScale, RowTrim, Scale, Stage, Trim

#: Elements per partial sum; slices start at multiples of it.
GRAIN = 65536
#: Elements per inner block of the loops.
BLOCK = loops.BLOCK
#: Bins of a magnitude window.
BINS = 1 << 18

CODES: dict[str, int] = {"F64": 0, "F32": 1, "F16": 2, "BF16": 3}
ITEMSIZE = (8, 4, 2, 2)
_TRIM, _DROP, _SCALE, _CLIP, _ROW_SCALE, _ROW_TRIM = 0, 1, 2, 3, 4, 5
_MARKS = {None: 0, "agrees": 1, "near": 2}
_NO_BITS = np.zeros(0, np.uint8)
_AVERAGES = {"sum": 0, "agree_sum": 1, "agree_count": 2, "agree_weight": 3, "agree_max": 4, "unified": 5}

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

    @property
    def n(self) -> int:
        """Number of models, the base not counted."""
        return len(self.is_delta)

    def part(self, start: int, stop: int) -> "Rows":
        """Returns elements `start..stop` of this slice, counted from its first."""
        sizes = np.array([ITEMSIZE[code] for code in self.codes], dtype=np.int64)
        return replace(self, offsets=self.offsets + start * sizes, start=self.start + start, count=stop - start)

    def sampled(self, every: int) -> "Rows":
        """Returns the same slice, of which counts look at one block in `every`."""
        return replace(self, every=every)

    def then(self, *stages: Stage) -> "Rows":
        """Returns the same slice with more stages."""
        return replace(self, stages=self.stages + stages) if stages else self


Place = tuple[Bytes, Ints, Ints, NDArray[np.bool_], bool, int, int, Ints, Any, NDArray[np.uint32], Any, Any, Any, int]


def _place(rows: Rows, kept: int = 0) -> Place:
    """What every loop takes: where the rows are, the stages as arrays, and scratch for the work rows."""
    work = np.float64 if rows.double else np.float32
    kinds, numbers, keys = _table(rows)
    bits, scratch = np.zeros(loops.BLOCK, np.uint32), np.zeros(loops.KEPT + kept * loops.BLOCK, work)
    rows_of = (rows.raw, rows.offsets, rows.codes, rows.is_delta, rows.has_base, rows.start, rows.count)
    by_row = [stage for stage in rows.stages if isinstance(stage, RowScale | RowTrim)]
    assert len(by_row) < 2, "one stage by rows in a chain"
    factors, width = (by_row[0].factor, by_row[0].width) if by_row else (np.zeros(0), 1)
    return (*rows_of, kinds, numbers.astype(work), keys, bits, scratch, factors.astype(work), width)


def _table(rows: Rows) -> tuple[Ints, Floats, NDArray[np.uint32]]:
    """Writes the stages as arrays: kinds (k), numbers (k, n), draw keys (k, n, 3)."""
    k, n = len(rows.stages), rows.n
    kinds, numbers = np.zeros(k, np.int64), np.zeros((k, n), np.float64)
    keys = np.zeros((k, n, 3), np.uint32)
    for at, stage in enumerate(rows.stages):
        if isinstance(stage, Trim):
            kinds[at], numbers[at] = _TRIM, stage.cut
        elif isinstance(stage, Scale):
            kinds[at], numbers[at] = _SCALE, stage.factor
        elif isinstance(stage, Clip):
            kinds[at], numbers[at] = _CLIP, stage.limit
        elif isinstance(stage, RowScale):
            kinds[at] = _ROW_SCALE
        elif isinstance(stage, RowTrim):
            kinds[at], numbers[at] = _ROW_TRIM, stage.cut
        elif isinstance(stage, Drop):
            limits = np.array([threshold(density) for density in stage.density])
            kinds[at], numbers[at] = _DROP, np.where(limits > 0, stage.factor, 0.0)
            keys[at, :, :2] = rows.key.at(stage.step).streams(n)
            keys[at, :, 2] = np.maximum(limits, 1) - 1  # the last draw that keeps: the first that drops may not fit
    return kinds, numbers, keys


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
    work = np.float64 if rows.double else np.float32
    marks = how.marks if how.marks is not None and (len(marked) or how.marks.least) else None
    place = _place(rows.then(*how.stages), rows.n if how.average == "unified" else 0)
    bare = place
    if marks is not None and how.stages:  # the same rows and scratch, without the stages of the combination itself
        kinds, numbers, keys = _table(rows)
        bare = (*place[:7], kinds, numbers.astype(work), keys, *place[10:])
    kind, least = (0, 0) if marks is None else (_MARKS[marks.where], marks.least)
    settings = np.array([_AVERAGES[how.average], how.tie, how.of == "deltas", kind, least], np.int64)
    weight, scales = np.array(how.weight).astype(work), np.array([how.anchor, how.scale]).astype(work)
    share = np.array(marks.share if marks is not None else ()).astype(work)
    return int(loops.combine(place, bare, weight, scales, settings, share, marked, out, out_code))


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
        unrolled.gram(base, shown, diagonal, out)
        return out
    loops.gram(_place(rows, p), of_weights, diagonal, out)
    return out


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
    loops.mass(_place(rows), out)
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
    """Counts magnitudes in a window per model, adding to `below` (n) and `bins` (n, BINS).

    A magnitude is the bit pattern of |delta| in the work dtype, whose order is the order of the values. Bin b of model
    i holds patterns p with `(p - low[i]) >> shift[i] == b`; `below` counts those under the window.
    """
    if _common(rows) and rows.has_base and (stages := _stages(rows)) is not None:
        _count_common(rows, stages, low, shift, below, bins)
        return
    count = loops.magnitudes64 if rows.double else loops.magnitudes32
    count(_place(rows), low, shift, below, bins, rows.every)


def votes(rows: Rows, weight: tuple[float, ...]) -> int:
    """Returns how many elements elect plus, less how many elect minus, by the weighted mass of the deltas."""
    work = np.float64 if rows.double else np.float32
    return int(loops.votes(_place(rows), np.array(weight).astype(work)))


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
    if found not in ([], [_DROP], [_TRIM], [_SCALE], [_DROP, _TRIM], [_DROP, _SCALE], [_TRIM, _SCALE]):
        return None
    draws: tuple[Words, Words, Words, Singles] | None = None
    cuts: Singles | None = None
    factors: Singles | None = None
    for kind, own, key in zip(found, numbers, keys, strict=True):
        if kind == _DROP:
            first = np.uint32(rows.start * 0x9E3779B1 & 0xFFFFFFFF)
            high = np.uint32((rows.start >> 32) * 0x85EBCA6B & 0xFFFFFFFF)
            draws = (tuple(key[:, 0] + first), tuple(key[:, 1] ^ high), tuple(key[:, 2]), _singles(own))
        elif kind == _TRIM:
            cuts = _singles(own)
        else:
            factors = _singles(own)
    if cuts is None and factors is None:
        return draws, None
    return draws, (cuts or _singles([0.0] * rows.n), factors or _singles([1.0] * rows.n))  # these change nothing


def _combine_common(rows: Rows, how: Combination, out: NDArray[np.uint16]) -> int | None:
    """Does what `combine` does; returns None when this is not the common case after all."""
    arrays, weight = _arrays(rows), _singles(how.weight)
    anchor, scale = _singles([how.anchor, how.scale])
    if how.of == "weights":
        plain = how.average == "sum" and not rows.stages and anchor == 0
        return int(unrolled.average(arrays[rows.has_base :], weight, scale, out)) if plain else None
    stages = _stages(rows)
    shares = {"agree_sum": [0.0] * rows.n, "agree_count": [1.0] * rows.n, "agree_weight": how.weight}
    if stages is None or not rows.has_base or anchor == 0 or how.average not in {"sum", *shares}:
        return None
    if how.average == "sum":
        return int(unrolled.add(arrays[0], arrays[1:], *stages, weight, (anchor, scale), out))
    votes = (weight, _singles(shares[how.average]), how.tie, (anchor, scale), out)
    return int(unrolled.elect(arrays[0], arrays[1:], *stages, *votes))


def _count_common(rows: Rows, stages: Stages, low: NDArray[np.uint64], shift: Ints, below: Ints, bins: Ints) -> None:
    """Does what `magnitudes` does."""
    draws, trims = stages
    base, *models = _arrays(rows)
    for j, row in enumerate(models):
        cut, factor = (np.float32(0), np.float32(1)) if trims is None else (trims[0][j], trims[1][j])
        draw = None if draws is None else tuple(part[j] for part in draws)
        room = 0xFFFFFFFF - int(low[j])
        width = np.uint32(min(room, (bins.shape[1] << int(shift[j])) - 1))
        lowest, by = np.uint32(low[j]), np.uint32(shift[j])
        below[j] += unrolled.count(base, row, cut, factor, draw, lowest, width, by, rows.every, bins[j])
