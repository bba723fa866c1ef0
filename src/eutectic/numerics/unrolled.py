"""The common case of `loops`, unrolled: few models, all in bfloat16, merged to bfloat16 around a base or without one.

Here the rows are a tuple of arrays, whose length the compiler knows. It unrolls the loop over models inside the loop
over elements and keeps everything between loading and storing in registers, where the general loops pass blocks from
one step to the next through the cache: a half to a fifth of the time. Each element goes through the same operations
in the same order as there, so the bits are the same, and which of the two serves is nobody's business.

`draws` (two keys, the last draw kept, what multiplies the kept) and `trims` (cuts, then factors), with one number a
model each, are None where a chain has none: that is compiled for itself, too.
"""

import numpy as np
from numba import njit

from eutectic.numerics.instructions import as_bits, as_float, first_bit, widest
from eutectic.numerics.loops import BLOCK

#: More models than this are left to the general loops: every number of models is compiled for itself.
MOST = 6

_jit = njit(cache=True, nogil=True, error_model="numpy")
_inline = njit(nogil=True, error_model="numpy")


@_inline
def widen(stored):  # type: ignore[no-untyped-def]
    """The float32 that a stored bfloat16 is."""
    return as_float(np.uint32(np.uint32(stored) << np.uint32(16)))


@_inline
def drawn(index, key0, key1):  # type: ignore[no-untyped-def]
    """The draw of one element, as `loops.drop` makes it; `key0` and `key1` hold what the tensor's place adds."""
    # Each step is cast back: numba widens uint32 arithmetic to 64 bits, which would halve the vectors.
    x = np.uint32(np.uint32(np.uint32(index) * np.uint32(0x9E3779B1)) + key0)
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32(x ^ key1)
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@_inline
def narrow(r):  # type: ignore[no-untyped-def]
    """Rounds to bfloat16, to nearest even; a NaN stays one."""
    b = as_bits(r)
    odd = np.uint32(b >> np.uint32(16)) & np.uint32(1)
    rounded = np.uint32(b + np.uint32(np.uint32(0x7FFF) + odd)) >> np.uint32(16)
    quiet = (b >> np.uint32(16)) | np.uint32(0x40)
    return np.uint16(quiet if np.uint32(b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000) else rounded)


@_inline
def infinite(r):  # type: ignore[no-untyped-def]
    """1 if the number is NaN, or infinite once rounded to bfloat16."""
    return np.uint32(np.uint32(as_bits(r) & np.uint32(0x7FFFFFFF)) >= np.uint32(0x7F7F8000))


@_jit
def average(base, rows, weights, scales, out):  # type: ignore[no-untyped-def]
    """Writes scales[0] * base, if there is one, + scales[1] * sum of weights[j] * rows[j].

    Returns how many results are not finite.
    """
    widest()
    anchor, scale = scales
    bad = np.uint32(0)
    for i in range(len(out)):
        total = weights[0] * widen(rows[0][i])
        for j in range(1, len(rows)):
            total += weights[j] * widen(rows[j][i])
        r = scale * total if base is None else anchor * widen(base[i]) + scale * total
        out[i] = narrow(r)
        bad = np.uint32(bad + infinite(r))
    return np.int64(bad)


@_jit
def add(base, rows, draws, trims, weights, scales, out):  # type: ignore[no-untyped-def]
    """Writes scales[0] * base + scales[1] * sum of weights[j] * delta j; returns how many results are not finite."""
    widest()
    anchor, scale = scales
    zero = np.float32(0)
    bad = np.uint32(0)
    for i in range(len(out)):
        start = widen(base[i])
        total = zero
        for j in range(len(rows)):
            v = widen(rows[j][i]) - start
            if draws is not None:
                v = v * draws[3][j] if drawn(i, draws[0][j], draws[1][j]) <= draws[2][j] else zero
            if trims is not None:
                v = v * np.float32(abs(v) >= trims[0][j]) * trims[1][j]
            # The first is not added to zero, which would turn -0.0 into 0.0.
            total = weights[j] * v if j == 0 else total + weights[j] * v
        r = anchor * start + scale * total
        out[i] = narrow(r)
        bad = np.uint32(bad + infinite(r))
    return np.int64(bad)


@_jit
def elect(base, rows, draws, trims, weights, shares, plain, tie, floor, scales, out):  # type: ignore[no-untyped-def]
    """Writes scales[0] * base + scales[1] * the weighted deltas of the side with more votes, over its shares.

    The vote is of the weighted deltas, or, where `plain` is not None, of the deltas as they are. A tie goes to the side
    `tie`, or to nobody. Shares that add up to less than `floor` divide as it does; without one, a sum of 0 divides as
    1. Returns how many results are not finite.
    """
    widest()
    anchor, scale = scales
    zero, one = np.float32(0), np.float32(1)
    bad = np.uint32(0)
    for i in range(len(out)):
        start = widen(base[i])
        plus, minus, rise, fall, more, less = zero, zero, zero, zero, zero, zero
        for j in range(len(rows)):
            v = widen(rows[j][i]) - start
            if draws is not None:
                v = v * draws[3][j] if drawn(i, draws[0][j], draws[1][j]) <= draws[2][j] else zero
            if trims is not None:
                v = v * np.float32(abs(v) >= trims[0][j]) * trims[1][j]
            if plain is None:
                v = v * weights[j]
            else:
                rise += weights[j] * max(v, zero)
                fall += weights[j] * min(v, zero)
            plus += max(v, zero)
            minus += min(v, zero)
            more += shares[j] * np.float32(v > zero)
            less += shares[j] * np.float32(v < zero)
        vote = plus + minus
        up = (vote > zero) | ((vote == zero) & (tie > 0))
        down = (vote < zero) | ((vote == zero) & (tie < 0))
        if plain is None:
            mass = plus if up else (minus if down else zero)
        else:
            mass = rise if up else (fall if down else zero)
        size = more if up else (less if down else zero)
        mass = mass / ((one if size == zero else size) if floor is None else max(size, floor))
        mass = vote if vote != vote else mass  # a NaN elects nobody and must not be hidden
        r = anchor * start + scale * mass
        out[i] = narrow(r)
        bad = np.uint32(bad + infinite(r))
    return np.int64(bad)


@_jit
def mark(base, row, cut, factor, draw, step, lowest, width, hit):  # type: ignore[no-untyped-def]
    """Marks whose magnitude's pattern lies in a window; returns how many lie under it."""
    widest()
    under = np.uint32(0)
    zero = np.float32(0)
    for i in range(len(row)):
        v = widen(row[i]) - widen(base[i])
        if draw is not None:
            v = v * draw[3] if drawn(i, np.uint32(draw[0] + step), draw[1]) <= draw[2] else zero
        v = v * np.float32(abs(v) >= cut) * factor
        b = np.uint32(as_bits(v) & np.uint32(0x7FFFFFFF))
        under = np.uint32(under + np.uint32(b < lowest))
        hit[i] = np.uint8(np.uint32(b - lowest) <= width)
    return under


@_jit
def count(base, row, cut, factor, draw, lowest, width, shift, every, bins):  # type: ignore[no-untyped-def]
    """Counts the magnitudes of one model's deltas in a window of bit patterns; returns how many lie under it.

    Only one block in `every` is looked at.
    """
    widest()
    hit = np.zeros(BLOCK, np.uint8)
    hits = hit.view(np.uint64)
    zero = np.float32(0)
    below = np.int64(0)
    for at in range(0, len(row), BLOCK * every):
        m = min(BLOCK, len(row) - at)
        hit[m:] = 0
        own, start = row[at : at + m], base[at : at + m]
        step = np.uint32(np.uint32(at) * np.uint32(0x9E3779B1))
        below += mark(start, own, cut, factor, draw, step, lowest, width, hit[:m])
        # Few elements lie in the window: eight are passed over at a time, and each hit is gone to by its bit.
        for word in range(BLOCK // 8):
            marks = hits[word]
            while marks != 0:
                i = 8 * word + (first_bit(marks) >> 3)
                marks &= marks - np.uint64(1)
                v = widen(own[i]) - widen(start[i])
                if draw is not None:
                    v = v * draw[3] if drawn(i, np.uint32(draw[0] + step), draw[1]) <= draw[2] else zero
                v = v * np.float32(abs(v) >= cut) * factor
                b = np.uint32(as_bits(v) & np.uint32(0x7FFFFFFF))
                bins[np.uint32(b - lowest) >> shift] += 1
    return below


@_jit
def mass(base, row, cut, factor, draw, out):  # type: ignore[no-untyped-def]
    """Adds the magnitudes of one model's deltas to the grain of `out` they lie in, in the order of `loops.mass`."""
    widest()
    lanes = np.empty(32, np.float64)
    zero = np.float32(0)
    for at in range(0, len(row), BLOCK):
        m = min(BLOCK, len(row) - at)
        own, start = row[at : at + m], base[at : at + m]
        step = np.uint32(np.uint32(at) * np.uint32(0x9E3779B1))
        lanes[:] = 0.0
        whole = m - m % 32
        # Deltas are made again here rather than kept: adding up a kept row took twice as long.
        for i in range(0, whole, 32):
            for k in range(32):
                v = widen(own[i + k]) - widen(start[i + k])
                if draw is not None:
                    v = v * draw[3] if drawn(i + k, np.uint32(draw[0] + step), draw[1]) <= draw[2] else zero
                v = v * np.float32(abs(v) >= cut) * factor
                lanes[k] += abs(np.float64(v))
        total = 0.0
        for k in range(32):
            total += lanes[k]
        for i in range(whole, m):
            v = widen(own[i]) - widen(start[i])
            if draw is not None:
                v = v * draw[3] if drawn(i, np.uint32(draw[0] + step), draw[1]) <= draw[2] else zero
            v = v * np.float32(abs(v) >= cut) * factor
            total += abs(np.float64(v))
        out[at // 65536] += total


@_jit
def dot(x, y, lanes):  # type: ignore[no-untyped-def]
    """Sum of products of two float32 rows in float64, in the order of `loops.dot`."""
    widest()
    lanes[:] = 0.0
    whole = len(x) - len(x) % 32
    for i in range(0, whole, 32):
        for k in range(32):
            lanes[k] += np.float64(x[i + k]) * np.float64(y[i + k])
    total = 0.0
    for k in range(32):
        total += lanes[k]
    for i in range(whole, len(x)):
        total += np.float64(x[i]) * np.float64(y[i])
    return total


@_jit
def pair(x, y, lanes):  # type: ignore[no-untyped-def]
    """The three products of two rows that SLERP asks for, each as `dot` adds it, in one pass over both."""
    widest()
    lanes[:] = 0.0
    whole = len(x) - len(x) % 32
    for i in range(0, whole, 32):
        for k in range(32):
            a, b = np.float64(widen(x[i + k])), np.float64(widen(y[i + k]))
            lanes[k] += a * a
            lanes[32 + k] += a * b
            lanes[64 + k] += b * b
    first, both, second = 0.0, 0.0, 0.0
    for k in range(32):
        first += lanes[k]
        both += lanes[32 + k]
        second += lanes[64 + k]
    for i in range(whole, len(x)):
        a, b = np.float64(widen(x[i])), np.float64(widen(y[i]))
        first += a * a
        both += a * b
        second += b * b
    return first, both, second


@_jit
def pairs(x, y, out):  # type: ignore[no-untyped-def]
    """Does what `gram` does for two rows themselves."""
    widest()
    lanes = np.empty(96, np.float64)
    for at in range(0, len(x), BLOCK):
        first, both, second = pair(x[at : at + BLOCK], y[at : at + BLOCK], lanes)
        out[at // 65536, 0, 0] += first
        out[at // 65536, 0, 1] += both
        out[at // 65536, 1, 0] += both
        out[at // 65536, 1, 1] += second


@_jit
def gram(base, rows, diagonal, out):  # type: ignore[no-untyped-def]
    """Adds the products of all pairs of rows (of their deltas, with a base) to the grain of `out` they lie in."""
    widest()
    lanes = np.empty(32, np.float64)
    kept = np.empty((len(rows), BLOCK), np.float32)
    for at in range(0, len(rows[0]), BLOCK):
        m = min(BLOCK, len(rows[0]) - at)
        for a in range(len(rows)):
            x, row = rows[a][at : at + m], kept[a, :m]
            if base is None:
                for i in range(m):
                    row[i] = widen(x[i])
            else:
                start = base[at : at + m]
                for i in range(m):
                    row[i] = widen(x[i]) - widen(start[i])
        for a in range(len(rows)):
            for b in range(a, a + 1 if diagonal else len(rows)):
                found = dot(kept[a, :m], kept[b, :m], lanes)
                out[at // 65536, a, b] += found
                if a != b:
                    out[at // 65536, b, a] += found
