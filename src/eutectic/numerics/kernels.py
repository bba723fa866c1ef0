"""Fused, thread-friendly loops over slices in their stored dtype: load, stages, then combine or measure.

Every public function works on `Rows`: the raw bytes of one slice of all models, the base first if there is one. Loops
run in blocks that stay in the first cache levels; nothing is allocated per call but the block scratch. They release the
interpreter lock, never reorder floating-point operations (no fastmath), and visit elements in index order, so a
result depends neither on slices nor on threads. Sums are kept per `GRAIN` elements, counted from the tensor's start,
for the same reason: whoever adds them later adds the same numbers in the same order.
"""

from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from eutectic.numerics.draw import Key, threshold
from eutectic.numerics.stages import Combination, Drop, Scale, Stage, Trim

#: Elements per partial sum; slices start at multiples of it.
GRAIN = 65536
#: Elements per inner block: a float32 row of it is 8 KiB.
BLOCK = 2048
#: Bins of a magnitude window.
BINS = 1 << 18

CODES: dict[str, int] = {"F64": 0, "F32": 1, "F16": 2, "BF16": 3}
ITEMSIZE = (8, 4, 2, 2)
_TRIM, _DROP, _SCALE = 0, 1, 2
_AVERAGES = {"sum": 0, "agree_sum": 1, "agree_count": 2, "agree_weight": 3, "agree_max": 4}

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


def _scratch(rows: Rows, kept: int) -> tuple[NDArray[np.uint32], NDArray[np.floating]]:
    """Allocates the bit row and the work rows of one call."""
    work = np.float64 if rows.double else np.float32
    return np.empty(BLOCK, np.uint32), np.empty((kept, BLOCK), work)


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
        elif isinstance(stage, Drop):
            limits = np.array([threshold(density) for density in stage.density])
            kinds[at], numbers[at] = _DROP, np.where(limits > 0, stage.factor, 0.0)
            keys[at, :, :2] = rows.key.at(stage.step).streams(n)
            keys[at, :, 2] = np.maximum(limits, 1) - 1  # the last draw that keeps: the first that drops may not fit
    return kinds, numbers, keys


def combine(rows: Rows, how: Combination, out: Bytes, out_code: int) -> int:
    """Writes the combined slice to `out` in the output dtype, rounded once.

    Returns:
        How many elements of the result are NaN or infinite.
    """
    rows = rows.then(*how.stages)
    elect = how.average != "sum"
    bits, work = _scratch(rows, 3 + (rows.n if elect else 1))
    settings = np.array([_AVERAGES[how.average], how.tie, how.of == "deltas"], np.int64)
    weight = np.asarray(how.weight, np.float64).astype(work.dtype)
    scales = np.array([how.anchor, how.scale], np.float64).astype(work.dtype)
    kinds, numbers, keys = _table(rows)
    place = (rows.raw, rows.offsets, rows.codes, rows.is_delta, rows.has_base, rows.start, rows.count)
    return int(_combine(*place, kinds, numbers.astype(work.dtype), keys, bits, work, weight, scales, settings, out, out_code))


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
    bits, work = _scratch(rows, 1 + p)
    kinds, numbers, keys = _table(rows)
    out = np.zeros((-(-rows.count // GRAIN), p, p), np.float64)
    place = (rows.raw, rows.offsets, rows.codes, rows.is_delta, rows.has_base, rows.start, rows.count)
    _gram(*place, kinds, numbers.astype(work.dtype), keys, bits, work, of_weights, diagonal, out)
    return out


def mass(rows: Rows) -> Floats:
    """Sums of magnitudes of the deltas after the stages, per `GRAIN` elements: (grains, n)."""
    bits, work = _scratch(rows, 2)
    kinds, numbers, keys = _table(rows)
    out = np.zeros((-(-rows.count // GRAIN), rows.n), np.float64)
    place = (rows.raw, rows.offsets, rows.codes, rows.is_delta, rows.has_base, rows.start, rows.count)
    _mass(*place, kinds, numbers.astype(work.dtype), keys, bits, work, out)
    return out


def magnitudes(rows: Rows, low: NDArray[np.uint64], shift: Ints, below: Ints, bins: Ints) -> None:
    """Counts magnitudes in a window per model, adding to `below` (n) and `bins` (n, BINS).

    A magnitude is the bit pattern of |delta| in the work dtype, whose order is the order of the values. Bin b of model
    i holds patterns p with `(p - low[i]) >> shift[i] == b`; `below` counts those under the window.
    """
    bits, work = _scratch(rows, 2)
    kinds, numbers, keys = _table(rows)
    place = (rows.raw, rows.offsets, rows.codes, rows.is_delta, rows.has_base, rows.start, rows.count)
    count = _magnitudes64 if rows.double else _magnitudes32
    count(*place, kinds, numbers.astype(work.dtype), keys, bits, work, low, shift, below, bins, rows.every)


def votes(rows: Rows, weight: tuple[float, ...]) -> int:
    """Returns how many elements elect plus, less how many elect minus, by the weighted mass of the deltas."""
    bits, work = _scratch(rows, 3)
    kinds, numbers, keys = _table(rows)
    place = (rows.raw, rows.offsets, rows.codes, rows.is_delta, rows.has_base, rows.start, rows.count)
    return int(_votes(*place, kinds, numbers.astype(work.dtype), keys, bits, work, np.asarray(weight).astype(work.dtype)))


# ---- loops ----------------------------------------------------------------------------------------------------------

_jit = njit(cache=True, nogil=True, error_model="numpy")


@_jit
def _load(raw, offset, code, first, m, bits, row):  # type: ignore[no-untyped-def]
    """Widens m stored elements to the work dtype."""
    if code == 3:
        stored = raw[offset + 2 * first : offset + 2 * (first + m)].view(np.uint16)
        for i in range(m):
            bits[i] = np.uint32(stored[i]) << np.uint32(16)
        values = bits.view(np.float32)
        for i in range(m):
            row[i] = values[i]
    elif code == 1:
        single = raw[offset + 4 * first : offset + 4 * (first + m)].view(np.float32)
        for i in range(m):
            row[i] = single[i]
    elif code == 2:
        half = raw[offset + 2 * first : offset + 2 * (first + m)].view(np.uint16)
        for i in range(m):
            bits[i] = (np.uint32(half[i]) & np.uint32(0x7FFF)) << np.uint32(13)
        values = bits.view(np.float32)
        for i in range(m):
            values[i] = values[i] * np.float32(5.192296858534828e33)  # 2**112: rebias the exponent, denormals too
        for i in range(m):
            h = np.uint32(half[i])
            if (h & np.uint32(0x7C00)) == np.uint32(0x7C00):
                bits[i] = np.uint32(0x7F800000) | ((h & np.uint32(0x03FF)) << np.uint32(13))
            bits[i] |= (h & np.uint32(0x8000)) << np.uint32(16)
        for i in range(m):
            row[i] = values[i]
    else:
        double = raw[offset + 8 * first : offset + 8 * (first + m)].view(np.float64)
        for i in range(m):
            row[i] = double[i]


@_jit
def _store(values, m, bits, code, out, first):  # type: ignore[no-untyped-def]
    """Rounds m work elements once, to nearest even, in the output dtype; returns how many are not finite there."""
    if code == 0:
        double = out[8 * first : 8 * (first + m)].view(np.float64)
        lost = 0
        for i in range(m):
            double[i] = values[i]
            lost += 0 if np.isfinite(values[i]) else 1
        return lost
    single = bits.view(np.float32)
    for i in range(m):
        single[i] = values[i]
    if values.itemsize == 8 and code != 1:
        # To odd, so that rounding once more is as rounding once: truncate, then mark what was lost in the last bit.
        for i in range(m):
            back = np.float64(single[i])
            bits[i] -= np.uint32(abs(back) > abs(values[i]))
            bits[i] |= np.uint32(back != values[i])
    # The least magnitude that is infinite after rounding; NaNs lie above it.
    limit = np.uint32(0x7F800000) if code == 1 else (np.uint32(0x7F7F8000) if code == 3 else np.uint32(0x477FF000))
    special = np.uint32(0)
    for i in range(m):
        special += np.uint32((bits[i] & np.uint32(0x7FFFFFFF)) >= limit)
    bad = np.int64(special)
    if code == 1:
        target = out[4 * first : 4 * (first + m)].view(np.uint32)
        for i in range(m):
            target[i] = bits[i]
        return bad
    half = out[2 * first : 2 * (first + m)].view(np.uint16)
    if code == 3 and bad == 0:
        for i in range(m):
            b = bits[i]
            odd = np.uint32(b >> np.uint32(16)) & np.uint32(1)
            half[i] = np.uint16(np.uint32(b + np.uint32(np.uint32(0x7FFF) + odd)) >> np.uint32(16))
        return bad
    if code == 3:
        for i in range(m):
            b = bits[i]
            rounded = (b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            quiet = (b >> np.uint32(16)) | np.uint32(0x40)
            half[i] = np.uint16(quiet if (b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000) else rounded)
        return bad
    for i in range(m):
        b = bits[i] & np.uint32(0x7FFFFFFF)
        sign = (bits[i] >> np.uint32(16)) & np.uint32(0x8000)
        if b >= np.uint32(0x47800000):  # at or above 65536, or not finite
            h = np.uint32(0x7E00) if b > np.uint32(0x7F800000) else np.uint32(0x7C00)
        elif b < np.uint32(0x38800000):  # below 2**-14: a denormal half counts units of 2**-24
            bits[i] = b
            h = np.uint32(np.rint(np.float64(single[i]) * 16777216.0))
        else:
            h = (b + np.uint32(0xC8000FFF) + ((b >> np.uint32(13)) & np.uint32(1))) >> np.uint32(13)
        half[i] = np.uint16(sign | h)
    return bad


@_jit
def _drop(row, m, first, key0, key1, last, factor):  # type: ignore[no-untyped-def]
    """Zeroes the elements whose draw is above `last`; `first` is the index of row[0] in the tensor."""
    zero = row.dtype.type(0)
    high = np.uint32(np.uint32(first >> 32) * np.uint32(0x85EBCA6B))
    second = np.uint32(key1 ^ high)
    low = np.uint32(first & 0xFFFFFFFF)
    for i in range(m):
        # Each step is cast back: numba widens uint32 arithmetic to 64 bits, which would halve the vectors.
        x = np.uint32((low + np.uint32(i)) * np.uint32(0x9E3779B1) + key0)
        x = np.uint32(np.uint32(x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
        x = np.uint32(x ^ second)
        x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
        x = np.uint32(x ^ (x >> np.uint32(16)))
        row[i] = row[i] * factor if x <= last else zero


@_jit
def _model(raw, offsets, codes, is_delta, has_base, start, at, m, model, deltas, kinds, numbers, keys, bits, base, row):  # type: ignore[no-untyped-def]
    """Loads block `at` of one model into `row`: its delta after the stages, or (deltas False) its weights."""
    which = model + (1 if has_base else 0)
    if deltas and not is_delta[model] and codes[which] == 3:  # the common case, in one pass less
        stored = raw[offsets[which] + 2 * at : offsets[which] + 2 * (at + m)].view(np.uint16)
        for i in range(m):
            bits[i] = np.uint32(stored[i]) << np.uint32(16)
        values = bits.view(np.float32)
        for i in range(m):
            row[i] = values[i] - base[i]
    else:
        _load(raw, offsets[which], codes[which], at, m, bits, row)
        if deltas and not is_delta[model]:
            for i in range(m):
                row[i] -= base[i]
    if deltas or len(kinds) > 0:
        if not deltas and not is_delta[model]:
            for i in range(m):
                row[i] -= base[i]
        zero = row.dtype.type(0)
        for k in range(len(kinds)):
            number = numbers[k, model]
            if kinds[k] == 0:
                for i in range(m):
                    row[i] = zero if abs(row[i]) < number else row[i]
            elif kinds[k] == 1:
                # A block does not straddle 2**32 elements: slices start at multiples of GRAIN, which blocks divide.
                _drop(row, m, start + at, keys[k, model, 0], keys[k, model, 1], keys[k, model, 2], number)
            else:
                for i in range(m):
                    row[i] *= number
        if not deltas:
            for i in range(m):
                row[i] += base[i]
    elif is_delta[model]:
        for i in range(m):
            row[i] += base[i]


@_jit
def _agree(work, n, m, weight, average, tie, acc):  # type: ignore[no-untyped-def]
    """acc = average over the models whose weighted delta has the elected sign; work rows 3.. are the deltas."""
    zero = acc.dtype.type(0)
    for i in range(m):
        acc[i] = zero
    for j in range(n):
        w = weight[j]
        row = work[3 + j]
        for i in range(m):
            row[i] *= w
            acc[i] += row[i]
    votes, total = work[1], work[2]
    one, even = acc.dtype.type(1), acc.dtype.type(tie)
    for i in range(m):
        vote = acc[i]
        votes[i] = one if vote > zero else (-one if vote < zero else even)
        # A NaN anywhere makes the vote NaN: elect nobody and let the NaN through instead of hiding it.
        acc[i] = zero if vote == vote else vote
        total[i] = zero
    for j in range(n):
        row = work[3 + j]
        w = weight[j] if average == 3 else one
        if average == 4:
            for i in range(m):
                v = row[i] * votes[i]
                acc[i] = max(acc[i], v)
        else:
            for i in range(m):
                agree = row[i] * votes[i] > zero
                acc[i] += row[i] if agree else zero
                total[i] += w if agree else zero
    if average == 4:
        for i in range(m):
            acc[i] *= votes[i]
    elif average >= 2:
        for i in range(m):
            acc[i] /= total[i] if total[i] != zero else one


@_jit
def _combine(raw, offsets, codes, is_delta, has_base, start, count, kinds, numbers, keys, bits, work, weight, scales, settings, out, out_code):  # type: ignore[no-untyped-def]
    n = len(is_delta)
    average, tie, deltas = settings[0], settings[1], settings[2] == 1
    base = work[0]
    acc = np.empty(work.shape[1], work.dtype)
    bad = 0
    for at in range(0, count, 2048):
        m = min(2048, count - at)
        if has_base:
            _load(raw, offsets[0], codes[0], at, m, bits, base)
        if average == 0:
            row = work[1]
            for j in range(n):
                _model(raw, offsets, codes, is_delta, has_base, start, at, m, j, deltas, kinds, numbers, keys, bits, base, row)
                w = weight[j]
                if j == 0:  # not added to zero, which would turn -0.0 into 0.0
                    for i in range(m):
                        acc[i] = w * row[i]
                else:
                    for i in range(m):
                        acc[i] += w * row[i]
        else:
            for j in range(n):
                _model(raw, offsets, codes, is_delta, has_base, start, at, m, j, deltas, kinds, numbers, keys, bits, base, work[3 + j])
            _agree(work, n, m, weight, average, tie, acc)
        scale, anchor = scales[1], scales[0]
        if anchor != 0:
            for i in range(m):
                acc[i] = anchor * base[i] + scale * acc[i]
        else:
            for i in range(m):
                acc[i] = scale * acc[i]
        bad += _store(acc, m, bits, out_code, out, at)
    return bad


@_jit
def _gram(raw, offsets, codes, is_delta, has_base, start, count, kinds, numbers, keys, bits, work, of_weights, diagonal, out):  # type: ignore[no-untyped-def]
    n, p = len(is_delta), out.shape[1]
    lead = p - n
    lanes = np.empty(16, np.float64)
    base = work[1] if lead == 1 else work[0]
    for at in range(0, count, 2048):
        m = min(2048, count - at)
        if has_base:
            _load(raw, offsets[0], codes[0], at, m, bits, base)
        for j in range(n):
            _model(raw, offsets, codes, is_delta, has_base, start, at, m, j, not of_weights, kinds, numbers, keys, bits, base, work[1 + lead + j])
        grain = at // 65536
        for a in range(p):
            left = work[1 + a]
            for b in range(a, a + 1 if diagonal else p):
                right = work[1 + b]
                lanes[:] = 0.0
                whole = m - m % 16
                for i in range(0, whole, 16):
                    for k in range(16):
                        lanes[k] += np.float64(left[i + k]) * np.float64(right[i + k])
                total = 0.0
                for k in range(16):
                    total += lanes[k]
                for i in range(whole, m):
                    total += np.float64(left[i]) * np.float64(right[i])
                out[grain, a, b] += total
    for grain in range(out.shape[0]):
        for a in range(p):
            for b in range(a):
                out[grain, a, b] = out[grain, b, a]


@_jit
def _mass(raw, offsets, codes, is_delta, has_base, start, count, kinds, numbers, keys, bits, work, out):  # type: ignore[no-untyped-def]
    lanes = np.empty(16, np.float64)
    base, row = work[0], work[1]
    for at in range(0, count, 2048):
        m = min(2048, count - at)
        if has_base:
            _load(raw, offsets[0], codes[0], at, m, bits, base)
        for j in range(len(is_delta)):
            _model(raw, offsets, codes, is_delta, has_base, start, at, m, j, True, kinds, numbers, keys, bits, base, row)
            lanes[:] = 0.0
            whole = m - m % 16
            for i in range(0, whole, 16):
                for k in range(16):
                    lanes[k] += abs(np.float64(row[i + k]))
            total = 0.0
            for k in range(16):
                total += lanes[k]
            for i in range(whole, m):
                total += abs(np.float64(row[i]))
            out[at // 65536, j] += total


@_jit
def _magnitudes32(raw, offsets, codes, is_delta, has_base, start, count, kinds, numbers, keys, bits, work, low, shift, below, bins, every):  # type: ignore[no-untyped-def]
    base, row = work[0], work[1]
    size = bins.shape[1]
    pattern = row.view(np.uint32)
    hit = np.zeros(2048, np.uint8)
    hits = hit.view(np.uint64)
    for at in range(0, count, 2048 * every):
        m = min(2048, count - at)
        if has_base:
            _load(raw, offsets[0], codes[0], at, m, bits, base)
        for j in range(len(is_delta)):
            _model(raw, offsets, codes, is_delta, has_base, start, at, m, j, True, kinds, numbers, keys, bits, base, row)
            first, by = np.uint32(low[j]), np.uint32(shift[j])
            room = np.uint64(0xFFFFFFFF) - np.uint64(low[j])
            width = np.uint32(min(room, (np.uint64(size) << np.uint64(shift[j])) - np.uint64(1)))
            under = np.uint32(0)
            for i in range(m):
                b = np.uint32(pattern[i] & np.uint32(0x7FFFFFFF))
                pattern[i] = b
                under = np.uint32(under + np.uint32(b < first))
                hit[i] = np.uint8(np.uint32(b - first) <= width)
            below[j] += under
            for i in range(m, 2048):
                hit[i] = 0
            # Few elements lie in the window: eight are passed over at a time.
            for word in range(256):
                if hits[word] != 0:
                    for i in range(8 * word, 8 * word + 8):
                        if hit[i] != 0:
                            bins[j, np.uint32(pattern[i] - first) >> by] += 1


@_jit
def _magnitudes64(raw, offsets, codes, is_delta, has_base, start, count, kinds, numbers, keys, bits, work, low, shift, below, bins, every):  # type: ignore[no-untyped-def]
    base, row = work[0], work[1]
    size = np.uint64(bins.shape[1])
    pattern = row.view(np.uint64)
    for at in range(0, count, 2048 * every):
        m = min(2048, count - at)
        if has_base:
            _load(raw, offsets[0], codes[0], at, m, bits, base)
        for j in range(len(is_delta)):
            _model(raw, offsets, codes, is_delta, has_base, start, at, m, j, True, kinds, numbers, keys, bits, base, row)
            first, by = low[j], np.uint64(shift[j])
            for i in range(m):
                b = pattern[i] & np.uint64(0x7FFFFFFFFFFFFFFF)
                if b < first:
                    below[j] += 1
                elif (b - first) >> by < size:
                    bins[j, np.int64((b - first) >> by)] += 1


@_jit
def _votes(raw, offsets, codes, is_delta, has_base, start, count, kinds, numbers, keys, bits, work, weight):  # type: ignore[no-untyped-def]
    base, row, acc = work[0], work[1], work[2]
    total = 0
    for at in range(0, count, 2048):
        m = min(2048, count - at)
        if has_base:
            _load(raw, offsets[0], codes[0], at, m, bits, base)
        for i in range(m):
            acc[i] = 0
        for j in range(len(is_delta)):
            _model(raw, offsets, codes, is_delta, has_base, start, at, m, j, True, kinds, numbers, keys, bits, base, row)
            w = weight[j]
            for i in range(m):
                acc[i] += w * row[i]
        for i in range(m):
            if acc[i] > 0:
                total += 1
            elif acc[i] < 0:
                total -= 1
    return total
