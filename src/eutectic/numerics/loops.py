"""The numba loops behind `kernels`: blocks of one slice, from stored bytes to work precision and back.

The work rows of a call lie in one flat array at constant distances (`BASE`, `ROW`, ...). That is not tidiness: the
compiler must prove that rows do not overlap before it vectorises a loop over several of them, and with constant
distances it can; with one array a row it gives up at four. In the same spirit values are loaded before they are chosen
between (a conditional load is a branch), loops over work rows always go over whole blocks, whatever the tail holds
(a constant length is part of the proof), and 32-bit words are cast back after each step (numba widens them).
"""

import numpy as np
from numba import njit

#: Elements per block: a float32 row of it is 8 KiB, so that all rows stay in the first cache levels.
BLOCK = 2048
#: Where the work rows begin: the base, the model in hand, both sides of a vote and what they are divided by, the sum,
#: the models' mean and their spread around it, and both sides' weighted sums where the vote is a plain one.
BASE, ROW, PLUS, MINUS, FIRST, SECOND, UP, DOWN, SUM, MEAN, SPREAD = (k * BLOCK for k in range(11))
#: Work rows of a plain call; kept rows follow.
KEPT = 11 * BLOCK
#: Buckets of a row's magnitudes, and how many its elements may share on average before it is sorted instead.
BUCKETS, CROWDED = 2048, 256
#: How stages are called in `kinds`.
TRIM, DROP, SCALE, CLIP, ROW_SCALE, ROW_TRIM, BAND, SELECT, RANKED = range(9)
#: How averages are called in the settings of `combine`.
ALL, AGREE_SUM, AGREE_COUNT, AGREE_WEIGHT, AGREE_MAX, UNIFIED, AGREE_PLAIN, ACTIVE, LARGEST = range(9)

_jit = njit(cache=True, nogil=True, error_model="numpy")

#: Multiples of the golden ratio: a block's index steps, looked up because the multiplication costs more.
_STEPS = (np.arange(BLOCK, dtype=np.uint64) * 0x9E3779B1 & 0xFFFFFFFF).astype(np.uint32)


@_jit
def load(raw, offset, code, first, m, bits, w, to):  # type: ignore[no-untyped-def]
    """Widens m stored elements to the work row at `to`."""
    if code == 3:
        stored = raw[offset + 2 * first : offset + 2 * (first + m)].view(np.uint16)
        for i in range(m):
            bits[i] = np.uint32(stored[i]) << np.uint32(16)
        values = bits.view(np.float32)
        for i in range(m):
            w[to + i] = values[i]
    elif code == 1:
        single = raw[offset + 4 * first : offset + 4 * (first + m)].view(np.float32)
        for i in range(m):
            w[to + i] = single[i]
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
            w[to + i] = values[i]
    else:
        double = raw[offset + 8 * first : offset + 8 * (first + m)].view(np.float64)
        for i in range(m):
            w[to + i] = double[i]


@_jit
def store(w, at, m, bits, code, out, first):  # type: ignore[no-untyped-def]
    """Rounds m work elements once, to nearest even, in the output dtype; returns how many are not finite there."""
    values = w[at : at + m]
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
    if code == 3:  # the common case in one pass; a NaN may come out wrong, and is mended
        brain = out[2 * first : 2 * (first + m)].view(np.uint16)
        for i in range(m):
            b = bits[i]
            odd = np.uint32(b >> np.uint32(16)) & np.uint32(1)
            brain[i] = np.uint16(np.uint32(b + np.uint32(np.uint32(0x7FFF) + odd)) >> np.uint32(16))
            special = np.uint32(special + np.uint32(np.uint32(b & np.uint32(0x7FFFFFFF)) >= limit))
        if special > 0:
            for i in range(m):
                if (bits[i] & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
                    brain[i] = np.uint16((bits[i] >> np.uint32(16)) | np.uint32(0x40))
        return np.int64(special)
    for i in range(m):
        special += np.uint32((bits[i] & np.uint32(0x7FFFFFFF)) >= limit)
    bad = np.int64(special)
    if code == 1:
        target = out[4 * first : 4 * (first + m)].view(np.uint32)
        for i in range(m):
            target[i] = bits[i]
        return bad
    half = out[2 * first : 2 * (first + m)].view(np.uint16)
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
def drawn(index, key0, key1):  # type: ignore[no-untyped-def]
    """The draw of one element, as `Key.draws` has it."""
    second = np.uint32(key1 ^ np.uint32(np.uint32(index >> 32) * np.uint32(0x85EBCA6B)))
    x = np.uint32(np.uint32(np.uint32(index & 0xFFFFFFFF) * np.uint32(0x9E3779B1)) + key0)
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32(x ^ second)
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@_jit
def drop(w, first, key0, key1, last, factor):  # type: ignore[no-untyped-def]
    """Zeroes what the model in hand draws above `last`; `first` is the index of the block in the tensor."""
    zero = w.dtype.type(0)
    if (first & 0xFFFFFFFF) > 0x100000000 - BLOCK:  # the upper word of the index changes within the block
        for i in range(BLOCK):
            v = w[ROW + i] * factor
            w[ROW + i] = v if drawn(first + i, key0, key1) <= last else zero
        return
    high = np.uint32(np.uint32(first >> 32) * np.uint32(0x85EBCA6B))
    second = np.uint32(key1 ^ high)
    low = np.uint32(np.uint32(first & 0xFFFFFFFF) * np.uint32(0x9E3779B1) + key0)
    for i in range(BLOCK):
        # Each step is cast back: numba widens uint32 arithmetic to 64 bits, which would halve the vectors.
        x = np.uint32(low + _STEPS[i])
        x = np.uint32(np.uint32(x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
        x = np.uint32(x ^ second)
        x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
        x = np.uint32(x ^ (x >> np.uint32(16)))
        v = w[ROW + i] * factor
        w[ROW + i] = v if x <= last else zero


@_jit
def by_row(w, first, m, factors, width, trims, cut):  # type: ignore[no-untyped-def]
    """Multiplies the model in hand by its rows' factors, or zeroes what is below `cut` times them."""
    at = 0
    while at < m:
        row = (first + at) // width
        stop = min(m, (row + 1) * width - first)
        factor = factors[row]
        if trims:
            for i in range(at, stop):
                v = w[ROW + i]
                w[ROW + i] = v * w.dtype.type(abs(v) * factor >= cut)  # a NaN times 0 is a NaN
        else:
            for i in range(at, stop):
                w[ROW + i] *= factor
        at = stop


@_jit
def staged(place, at, m, j, deltas, upto):  # type: ignore[no-untyped-def]
    """Loads block `at` of model j to ROW: its delta after `upto` stages, or (deltas False) its weights."""
    raw, offsets, codes, is_delta, has_base, start, _, kinds, numbers, keys, bits, w, factors, width, marks = place
    which = j + (1 if has_base else 0)
    subtract = (deltas or upto > 0) and not is_delta[j]
    if subtract and codes[which] == 3:  # the common case, in one pass less
        stored = raw[offsets[which] + 2 * at : offsets[which] + 2 * (at + m)].view(np.uint16)
        for i in range(m):
            bits[i] = np.uint32(stored[i]) << np.uint32(16)
        values = bits.view(np.float32)
        for i in range(BLOCK):
            w[ROW + i] = values[i] - w[BASE + i]
    else:
        load(raw, offsets[which], codes[which], at, m, bits, w, ROW)
        if subtract:
            for i in range(BLOCK):
                w[ROW + i] -= w[BASE + i]
    for k in range(upto):
        number, other = numbers[k, j, 0], numbers[k, j, 1]
        if kinds[k] == TRIM:
            for i in range(BLOCK):
                v = w[ROW + i]
                w[ROW + i] = v * w.dtype.type(abs(v) >= number)  # a NaN times 0 is a NaN: it is seen
        elif kinds[k] == BAND:
            for i in range(BLOCK):
                v = w[ROW + i]
                size = abs(v)
                w[ROW + i] = v * w.dtype.type((size >= number) & (size <= other))
        elif kinds[k] == DROP:
            drop(w, start + at, keys[k, j, 0], keys[k, j, 1], keys[k, j, 2], number)
        elif kinds[k] == SELECT:
            for i in range(BLOCK):
                w[ROW + i] *= w.dtype.type(w[SPREAD + i] >= number)
        elif kinds[k] == RANKED:
            own = marks[np.int64(keys[k, j, 0]), j]
            lead = np.int64(keys[k, j, 1]) + at
            for i in range(BLOCK):
                w[ROW + i] *= own[lead + i]
        elif kinds[k] == SCALE:
            for i in range(BLOCK):
                w[ROW + i] *= number
        elif kinds[k] == CLIP:
            for i in range(BLOCK):
                v = w[ROW + i]
                v = number if v > number else v
                w[ROW + i] = -number if v < -number else v
        else:
            by_row(w, start + at, m, factors, width, kinds[k] == ROW_TRIM, number)
    if not deltas and (upto > 0 or is_delta[j]):
        for i in range(BLOCK):
            w[ROW + i] += w[BASE + i]


@_jit
def spread(place, at, m, upto):  # type: ignore[no-untyped-def]
    """SPREAD = each element's sum of squared distances of the models' deltas from their mean (Welford's updates)."""
    w, n = place[11], len(place[3])
    for i in range(BLOCK):
        w[SPREAD + i] = 0
    for j in range(n):
        staged(place, at, m, j, True, upto)
        if j == 0:
            for i in range(BLOCK):
                w[MEAN + i] = w[ROW + i]
        else:
            share = w.dtype.type(j + 1)
            for i in range(BLOCK):
                v, mean = w[ROW + i], w[MEAN + i]
                apart = v - mean
                mean += apart / share
                w[MEAN + i] = mean
                w[SPREAD + i] += apart * (v - mean)


@_jit
def model(place, at, m, j, deltas):  # type: ignore[no-untyped-def]
    """Loads block `at` of model j to ROW, all stages applied. Models are asked for in order, from 0."""
    kinds = place[7]
    if j == 0:
        for k in range(len(kinds)):
            if kinds[k] == SELECT:  # one a chain: what it looks at are all models after the stages before it
                spread(place, at, m, k)
    staged(place, at, m, j, deltas, len(kinds))


@_jit
def radix(packed, other, counts):  # type: ignore[no-untyped-def]
    """Sorts 64-bit words by their upper half, stably, a byte at a time; a byte that all share costs one look."""
    size = len(packed)
    counts[:] = 0
    for i in range(size):
        key = np.uint32(packed[i] >> np.uint64(32))
        for digit in range(4):
            counts[digit, np.uint32(key >> np.uint32(8 * digit)) & np.uint32(255)] += 1
    swapped = False
    for digit in range(4):
        by = np.uint64(32 + 8 * digit)
        count = counts[digit]
        source, target = (other, packed) if swapped else (packed, other)
        if count[np.int64((source[0] >> by) & np.uint64(255))] == size:
            continue
        total = np.int64(0)
        for b in range(256):
            count[b], total = total, total + count[b]
        for i in range(size):
            word = source[i]
            at = np.int64((word >> by) & np.uint64(255))
            target[count[at]] = word
            count[at] += 1
        swapped = not swapped
    if swapped:
        packed[:] = other


@_jit
def order(line, packed, other, counts):  # type: ignore[no-untyped-def]
    """Writes to the lower halves of `packed` the places of a row's magnitudes, smallest first, equal ones in order."""
    if line.itemsize == 4:
        single = line.view(np.uint32)
        for i in range(len(line)):
            packed[i] = (np.uint64(single[i]) << np.uint64(32)) | np.uint64(i)
        radix(packed, other, counts)
    else:
        double = line.view(np.uint64)
        for i in range(len(line)):
            packed[i] = (double[i] << np.uint64(32)) | np.uint64(i)
        radix(packed, other, counts)
        for i in range(len(line)):
            place = packed[i] & np.uint64(0xFFFFFFFF)
            packed[i] = ((double[np.int64(place)] >> np.uint64(32)) << np.uint64(32)) | place
        radix(packed, other, counts)


@_jit
def draw_row(first, key0, key1, draws):  # type: ignore[no-untyped-def]
    """Fills `draws` with those of the elements from `first` on."""
    size = len(draws)
    if (first & 0xFFFFFFFF) > 0x100000000 - size:  # the upper word of the index changes within the row
        for i in range(size):
            draws[i] = drawn(first + i, key0, key1)
        return
    second = np.uint32(key1 ^ np.uint32(np.uint32(first >> 32) * np.uint32(0x85EBCA6B)))
    low = np.uint32(np.uint32(np.uint32(first & 0xFFFFFFFF) * np.uint32(0x9E3779B1)) + key0)
    for i in range(size):
        x = np.uint32(low + np.uint32(np.uint32(i) * np.uint32(0x9E3779B1)))
        x = np.uint32(np.uint32(x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
        x = np.uint32(x ^ second)
        x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
        draws[i] = np.uint32(x ^ (x >> np.uint32(16)))


@_jit
def crowd(line, bucket, begins):  # type: ignore[no-untyped-def]
    """Counts a row's magnitudes in buckets, 128 an octave, the largest in the last; what is too small in the first.

    Bucket b holds the ranks begins[b]..begins[b + 1]. Returns the sum of squares of how many each holds.
    """
    size, last = len(line), len(begins) - 2
    if line.itemsize == 4:
        single = line.view(np.uint32)
        for i in range(size):
            bucket[i] = np.int32(single[i] >> np.uint32(16))
    else:
        double = line.view(np.uint64)
        for i in range(size):
            bucket[i] = np.int32(double[i] >> np.uint64(45))
    top = np.int32(0)
    for i in range(size):
        top = max(top, bucket[i])
    below = np.int32(top - last)
    for i in range(size):
        bucket[i] = max(np.int32(bucket[i] - below), np.int32(0))
    begins[:] = 0
    for i in range(size):
        begins[bucket[i] + 1] += 1
    squares = np.int64(0)
    for b in range(1, last + 2):
        count = begins[b]
        squares += np.int64(count) * np.int64(count)
        begins[b] = begins[b - 1] + count
    return squares


@_jit
def place_of(line, i):  # type: ignore[no-untyped-def]
    """The rank of one magnitude of a row, from 0; of equal ones the later one ranks higher."""
    v = line[i]
    below = np.uint32(0)
    for k in range(i):
        below = np.uint32(below + np.uint32(line[k] <= v))
    for k in range(i + 1, len(line)):
        below = np.uint32(below + np.uint32(line[k] < v))
    return np.int64(below)


@_jit
def mark_by_bucket(line, draws, bucket, begins, limit, peak, factor, marks, open_):  # type: ignore[no-untyped-def]
    """Marks the elements of a row that are kept; only where its bucket leaves it open, an element is ranked.

    `limit` rises to its `peak` and falls after it, so over a bucket's ranks it lies between what it is at the bucket's
    ends, or at the peak. A zero is marked with zero: it stays one. Draws are not predictable, so nothing branches on
    them: what is open is listed, and the list is shortened.
    """
    size = len(line)
    least, most = min(limit[0], limit[size - 1]), limit[peak]
    for i in range(size):
        marks[i] = factor * line.dtype.type(np.int64(draws[i]) < least)
    left = np.int64(0)
    for i in range(size):
        x = np.int64(draws[i])
        open_[left] = np.int32(i)
        left += np.int64(x >= least) & np.int64(x < most) & np.int64(line[i] > 0)
    ranked = np.int64(0)
    for at in range(left):
        i = open_[at]
        x, start, stop = np.int64(draws[i]), begins[bucket[i]], begins[bucket[i] + 1] - 1
        low, high = min(limit[start], limit[stop]), max(limit[start], limit[stop])
        high = most if (start <= peak) & (peak <= stop) else high
        marks[i] = factor * line.dtype.type(x < low)
        open_[ranked] = i
        ranked += np.int64(x >= low) & np.int64(x < high)
    for at in range(ranked):
        i = open_[at]
        if np.int64(draws[i]) < limit[place_of(line, i)]:
            marks[i] = factor


@_jit
def mark_by_rank(line, draws, packed, other, counts, limit, factor, marks):  # type: ignore[no-untyped-def]
    """Marks the elements of a row that are kept with the factor of their rank; all are ranked."""
    order(line, packed, other, counts)
    for r in range(len(line)):
        e = np.int64(packed[r] & np.uint64(0xFFFFFFFF))
        marks[e] = factor[r] * line.dtype.type(np.int64(draws[e]) < limit[r])


@_jit
def holder(begins, place):  # type: ignore[no-untyped-def]
    """The bucket that holds a rank."""
    low, high = 0, len(begins) - 2
    while low < high:
        middle = (low + high + 1) // 2
        if begins[middle] <= place:
            low = middle
        else:
            high = middle - 1
    return low


@_jit
def pattern(v):  # type: ignore[no-untyped-def]
    """The bits of a magnitude, whose order is that of the magnitudes, NaNs last."""
    return np.float64(v).view(np.uint64)


@_jit
def mark_between(line, bucket, begins, start, stop, marks, members, sizes):  # type: ignore[no-untyped-def]
    """Marks the ranks start..stop of a row with 1 and the others with 0, as `mark_by_rank` ranks them.

    Only the buckets that hold an edge, two at most, are looked into. Returns whether it did: not where one of them
    holds too many that are not all equal.
    """
    zero, one, size = line.dtype.type(0), line.dtype.type(1), len(line)
    if start >= stop:
        marks[:] = zero
        return True
    first, last = np.int32(holder(begins, start)), np.int32(holder(begins, stop - 1))
    for i in range(size):
        marks[i] = one if (bucket[i] >= first) & (bucket[i] <= last) else zero
    for edge in range(1 if first == last else 2):
        b = last if edge else first
        begin, end = np.int64(begins[b]), np.int64(begins[b + 1])
        if begin >= start and end <= stop:  # all of it stays
            continue
        count, equal = 0, True
        for i in range(size):
            if bucket[i] == b:
                members[count], sizes[count] = i, pattern(line[i])
                equal &= sizes[count] == sizes[0]
                count += 1
        if not equal and count > CROWDED:
            return False
        for k in range(count):
            below = np.uint32(k)
            if not equal:
                own, below = sizes[k], np.uint32(0)
                for other in range(k):
                    below = np.uint32(below + np.uint32(sizes[other] <= own))
                for other in range(k + 1, count):
                    below = np.uint32(below + np.uint32(sizes[other] < own))
            place = begin + np.int64(below)
            marks[members[k]] = one if (place >= start) & (place < stop) else zero
    return True


@_jit
def rank(place, upto, width, keys, limits, factors, peaks, bands, marks):  # type: ignore[no-untyped-def]
    """Fills `marks` (n, elements of whole rows) with what stage `upto` multiplies each delta by.

    The element of rank r in its row, from 0 for the smallest magnitude, is multiplied by `factors[j, r]` if it draws
    less than `limits[j, r]`, else by zero. Where the factor is one for all ranks (`peaks[j]` is not negative, and says
    where the limit is highest) few elements need be ranked, unless too many are alike. Where the ranks that are kept
    are those from bands[j, 0] to bands[j, 1] (not negative), nothing is drawn.
    """
    n, start, count, w = len(place[3]), place[5], place[6], place[11]
    packed, other = np.empty(width, np.uint64), np.empty(width, np.uint64)
    draws, bucket, open_ = np.empty(width, np.uint32), np.empty(width, np.int32), np.empty(width + 1, np.int32)
    counts, begins = np.empty((4, 256), np.int64), np.empty(BUCKETS + 1, np.int32)
    marked = np.empty(width, w.dtype)
    for at in range(0, count, BLOCK):
        m = begin(place, at)
        for j in range(n):
            staged(place, at, m, j, True, upto)
            sizes = marks[j]
            for i in range(m):
                sizes[at + i] = abs(w[ROW + i])
    for j in range(n):
        limit, factor, sizes = limits[j], factors[j], marks[j]
        for row in range(0, count, width):
            line = sizes[row : row + width]
            if bands[j, 0] >= 0:
                crowd(line, bucket, begins)
                if mark_between(line, bucket, begins, bands[j, 0], bands[j, 1], marked, open_, packed):
                    line[:] = marked
                    continue
            draw_row(start + row, keys[j, 0], keys[j, 1], draws)
            if peaks[j] >= 0 and crowd(line, bucket, begins) <= CROWDED * width:
                mark_by_bucket(line, draws, bucket, begins, limit, peaks[j], factor[0], marked, open_)
            else:
                mark_by_rank(line, draws, packed, other, counts, limit, factor, marked)
            line[:] = marked


@_jit
def side(w, weight, average):  # type: ignore[no-untyped-def]
    """Adds the model in hand to the sides of the vote.

    PLUS and MINUS hold each side's mass (AGREE_PLAIN: unweighted, and weighted in UP and DOWN); FIRST and SECOND what
    it is divided by: how many, or their weights, or (AGREE_MAX) its largest. A NaN goes to both masses and makes the
    vote NaN.
    """
    zero, one = w.dtype.type(0), w.dtype.type(1)
    if average == AGREE_MAX:
        for i in range(BLOCK):
            v = w[ROW + i] * weight
            w[PLUS + i] += max(v, zero)
            w[MINUS + i] += min(v, zero)
            w[FIRST + i] = max(w[FIRST + i], v)
            w[SECOND + i] = min(w[SECOND + i], v)
    elif average == AGREE_PLAIN:
        for i in range(BLOCK):
            v = w[ROW + i]
            w[PLUS + i] += max(v, zero)
            w[MINUS + i] += min(v, zero)
            w[UP + i] += weight * max(v, zero)
            w[DOWN + i] += weight * min(v, zero)
            w[FIRST + i] += weight * w.dtype.type(v > zero)
            w[SECOND + i] += weight * w.dtype.type(v < zero)
    else:
        share = weight if average == AGREE_WEIGHT else one
        for i in range(BLOCK):
            v = w[ROW + i] * weight
            w[PLUS + i] += max(v, zero)
            w[MINUS + i] += min(v, zero)
            w[FIRST + i] += share * w.dtype.type(v > zero)
            w[SECOND + i] += share * w.dtype.type(v < zero)


@_jit
def elect(w, average, tie, floor):  # type: ignore[no-untyped-def]
    """SUM = the side with more mass, averaged; an exact tie goes to the side `tie`, or to nobody.

    A sum of weights below `floor` divides as `floor`; where that is 0, a sum of 0 divides as 1.
    """
    zero, one = w.dtype.type(0), w.dtype.type(1)
    if average == AGREE_PLAIN:
        plus, minus = tie > 0, tie < 0
        for i in range(BLOCK):
            vote, up, down, more, less = (
                w[PLUS + i] + w[MINUS + i],
                w[UP + i],
                w[DOWN + i],
                w[FIRST + i],
                w[SECOND + i],
            )
            other = (vote < zero) | ((vote == zero) & minus)
            down = down if other else zero
            less = less if other else zero
            elected = (vote > zero) | ((vote == zero) & plus)
            w[SUM + i] = up if elected else down
            w[ROW + i] = more if elected else less
    elif tie > 0:
        for i in range(BLOCK):
            up, down, more, less = w[PLUS + i], w[MINUS + i], w[FIRST + i], w[SECOND + i]
            w[SUM + i] = down if up + down < zero else up
            w[ROW + i] = less if up + down < zero else more
    elif tie < 0:
        for i in range(BLOCK):
            up, down, more, less = w[PLUS + i], w[MINUS + i], w[FIRST + i], w[SECOND + i]
            w[SUM + i] = up if up + down > zero else down
            w[ROW + i] = more if up + down > zero else less
    else:
        for i in range(BLOCK):
            up, down, more, less = w[PLUS + i], w[MINUS + i], w[FIRST + i], w[SECOND + i]
            vote = up + down
            down = down if vote < zero else zero
            less = less if vote < zero else zero
            w[SUM + i] = up if vote > zero else down
            w[ROW + i] = more if vote > zero else less
    if average == AGREE_COUNT:
        for i in range(BLOCK):
            w[SUM + i] /= max(w[ROW + i], one)
    elif average in (AGREE_WEIGHT, AGREE_PLAIN) and floor > zero:
        for i in range(BLOCK):
            w[SUM + i] /= max(w[ROW + i], floor)
    elif average in (AGREE_WEIGHT, AGREE_PLAIN):
        for i in range(BLOCK):
            size = w[ROW + i]
            w[SUM + i] /= one if size == zero else size
    elif average == AGREE_MAX:
        for i in range(BLOCK):
            w[SUM + i] = w[ROW + i]
    unknown = 0
    for i in range(BLOCK):
        vote = w[PLUS + i] + w[MINUS + i]
        unknown += vote != vote
    if unknown > 0:  # a NaN elects nobody and must not be hidden
        for i in range(BLOCK):
            vote = w[PLUS + i] + w[MINUS + i]
            if vote != vote:
                w[SUM + i] = vote


@_jit
def gather(w, weight, average, first):  # type: ignore[no-untyped-def]
    """Adds the model in hand to what needs no vote.

    LARGEST: SUM is the weighted delta of largest magnitude, the later one of equals. ACTIVE: PLUS is the sum of the
    deltas, MINUS of the weighted ones, FIRST how many are not zero. A NaN is active and the largest.
    """
    if average == LARGEST:
        for i in range(BLOCK):
            v, s = w[ROW + i] * weight, w[SUM + i]
            w[SUM + i] = v if first or abs(v) >= abs(s) or v != v else s
    else:
        for i in range(BLOCK):
            v = w[ROW + i]
            w[PLUS + i] += v
            w[MINUS + i] += v * weight
            w[FIRST + i] += w.dtype.type(v != w.dtype.type(0))


@_jit
def settle(w):  # type: ignore[no-untyped-def]
    """SUM = the mean of the active deltas where there are several, else the weighted one."""
    one = w.dtype.type(1)
    for i in range(BLOCK):
        count, total, alone = w[FIRST + i], w[PLUS + i], w[MINUS + i]
        mean = total / max(count, one)
        w[SUM + i] = mean if count > one else alone


@_jit
def add(raw, offset, at, m, deltas, weight, bits, w):  # type: ignore[no-untyped-def]
    """Adds a model stored in bfloat16, or its delta, to SUM without keeping it: the common case, in two passes."""
    stored = raw[offset + 2 * at : offset + 2 * (at + m)].view(np.uint16)
    for i in range(m):
        bits[i] = np.uint32(stored[i]) << np.uint32(16)
    values = bits.view(np.float32)
    if deltas:
        for i in range(BLOCK):
            w[SUM + i] += weight * (w.dtype.type(values[i]) - w[BASE + i])
    else:
        for i in range(BLOCK):
            w[SUM + i] += weight * values[i]


@_jit
def begin(place, at):  # type: ignore[no-untyped-def]
    """Loads the base's block `at`, if there is a base; returns how many elements the block has."""
    raw, offsets, codes, _, has_base, _, count, _, _, _, bits, w, _, _, _ = place
    m = min(BLOCK, count - at)
    if has_base:
        load(raw, offsets[0], codes[0], at, m, bits, w, BASE)
    return m


@_jit
def unify(place, at, m):  # type: ignore[no-untyped-def]
    """SUM = of each element the largest delta of the sign that the deltas' sum has, minus for a zero; keeps the deltas.

    0 where no delta has that sign. A NaN makes it NaN.
    """
    raw, offsets, codes, is_delta, has_base, _, _, kinds, _, _, bits, w, _, _, _ = place
    zero = w.dtype.type(0)
    values = bits.view(np.float32)
    for i in range(3 * BLOCK):
        w[PLUS + i] = zero  # the sum, the largest and the smallest
    for j in range(len(is_delta)):
        which = j + (1 if has_base else 0)
        kept = KEPT + j * BLOCK
        if codes[which] == 3 and not is_delta[j] and len(kinds) == 0:  # the common case, in one pass less
            stored = raw[offsets[which] + 2 * at : offsets[which] + 2 * (at + m)].view(np.uint16)
            for i in range(m):
                bits[i] = np.uint32(stored[i]) << np.uint32(16)
            row = w[kept : kept + BLOCK]
            for i in range(BLOCK):
                row[i] = values[i] - w[BASE + i]
        else:
            model(place, at, m, j, True)
            w[kept : kept + BLOCK] = w[ROW : ROW + BLOCK]
        row = w[kept : kept + BLOCK]
        for i in range(BLOCK):
            v = row[i]
            w[PLUS + i] += v
            w[MINUS + i] = max(w[MINUS + i], v)
            w[FIRST + i] = min(w[FIRST + i], v)
    for i in range(BLOCK):
        vote, more, less = w[PLUS + i], w[MINUS + i], w[FIRST + i]
        chosen = more if vote > zero else less
        w[SUM + i] = chosen if vote == vote else vote


@_jit
def pack(hit, out, first):  # type: ignore[no-untyped-def]
    """Writes a block of zeros and ones as bits, the first element lowest."""
    words = hit.view(np.uint64)
    for b in range(min(BLOCK // 8, len(out) - first)):
        # Each factor's bit moves one of the eight ones to its place in the highest byte; none meets another.
        out[first + b] = np.uint8((words[b] * np.uint64(0x0102040810204080)) >> np.uint64(56))


@_jit
def mark(place, at, m, kind, share, least, hit, marked):  # type: ignore[no-untyped-def]
    """Marks what of the block's SUM belongs to each model, and drops from it what fewer than `least` marked."""
    n, count, bits, w = len(place[3]), place[6], place[10], place[11]
    zero = w.dtype.type(0)
    if kind == 2:
        for i in range(BLOCK):
            w[PLUS + i] = w[BASE + i] + w[SUM + i]
    for i in range(BLOCK):
        w[FIRST + i] = zero
    for j in range(n):
        if kind == 1:
            row = w[KEPT + j * BLOCK : KEPT + (j + 1) * BLOCK]
            for i in range(BLOCK):
                x, y = row[i], w[SUM + i]
                bits[i] = np.uint32(((x > zero) & (y > zero)) | ((x < zero) & (y < zero)))
        else:
            model(place, at, m, j, False)
            part = share[j]
            for i in range(BLOCK):
                x = w[ROW + i]
                bits[i] = np.uint32(abs(w[BASE + i] - x) > part * abs(w[PLUS + i] - x))
        if least > 0:
            for i in range(BLOCK):
                w[FIRST + i] += w.dtype.type(bits[i])
        if len(marked) > 0:
            for i in range(BLOCK):  # 32-bit comparisons first: narrowing them at once is slower
                hit[i] = np.uint8(bits[i])
            for i in range(m, BLOCK):
                hit[i] = 0
            width = (count + 7) // 8
            pack(hit, marked[j * width : (j + 1) * width], at // 8)
    if least > 0:
        for i in range(BLOCK):
            total = w[SUM + i]
            w[SUM + i] = total if w[FIRST + i] >= least or total - total != zero else zero


@_jit
def combine(place, bare, weight, scales, settings, share, marked, out, out_code):  # type: ignore[no-untyped-def]
    """Writes a combined slice, and its marks; returns how many results are not finite in the output dtype.

    `bare` is `place` without the combination's own stages: marks look at the models as they came.
    """
    raw, offsets, codes, is_delta, has_base, _, count, kinds, _, _, bits, w, _, _, _ = place
    average, tie, deltas, kind, least = settings[0], settings[1], settings[2] == 1, settings[3], settings[4]
    anchor, scale, floor = scales[0], scales[1], scales[2]
    hit = np.zeros(BLOCK, np.uint8)
    bad = 0
    for at in range(0, count, BLOCK):
        m = begin(place, at)
        if average == ALL:
            for j in range(len(is_delta)):
                which = j + (1 if has_base else 0)
                if j > 0 and codes[which] == 3 and not is_delta[j] and len(kinds) == 0:
                    add(raw, offsets[which], at, m, deltas, weight[j], bits, w)
                    continue
                model(place, at, m, j, deltas)
                if j == 0:  # not added to zero, which would turn -0.0 into 0.0
                    for i in range(BLOCK):
                        w[SUM + i] = weight[0] * w[ROW + i]
                else:
                    for i in range(BLOCK):
                        w[SUM + i] += weight[j] * w[ROW + i]
        elif average == UNIFIED:
            unify(place, at, m)
        elif average >= ACTIVE:
            for i in range(6 * BLOCK if average == AGREE_PLAIN else 4 * BLOCK):
                w[PLUS + i] = 0
            for j in range(len(is_delta)):
                model(place, at, m, j, True)
                gather(w, weight[j], average, j == 0)
            if average == ACTIVE:
                settle(w)
        else:
            for i in range(6 * BLOCK if average == AGREE_PLAIN else 4 * BLOCK):
                w[PLUS + i] = 0
            for j in range(len(is_delta)):
                model(place, at, m, j, deltas)
                side(w, weight[j], average)
            elect(w, average, tie, floor)
        if kind > 0:
            mark(bare, at, m, kind, share, least, hit, marked)
        if anchor != 0:
            for i in range(BLOCK):
                w[SUM + i] = anchor * w[BASE + i] + scale * w[SUM + i]
        else:
            for i in range(BLOCK):
                w[SUM + i] *= scale
        bad += store(w, SUM, m, bits, out_code, out, at)
    return bad


@_jit
def dot(x, y, m, lanes):  # type: ignore[no-untyped-def]
    """Sum of products of m elements in float64, in 32 lanes: an order of its own, and always the same."""
    lanes[:] = 0.0
    whole = m - m % 32
    for i in range(0, whole, 32):
        for k in range(32):
            lanes[k] += np.float64(x[i + k]) * np.float64(y[i + k])
    total = 0.0
    for k in range(32):
        total += lanes[k]
    for i in range(whole, m):
        total += np.float64(x[i]) * np.float64(y[i])
    return total


@_jit
def gram(place, of_weights, diagonal, out):  # type: ignore[no-untyped-def]
    """Adds the products of all pairs of rows to the grain of `out` they lie in."""
    n, count, w = len(place[3]), place[6], place[11]
    p = out.shape[1]
    lanes = np.empty(32, np.float64)
    places = np.empty(p, np.int64)
    for j in range(p):
        places[j] = KEPT + j * BLOCK
    places[p - 1] = ROW  # the last model need not be kept
    if p > n:
        places[0] = BASE
    for at in range(0, count, BLOCK):
        m = begin(place, at)
        for j in range(n):
            model(place, at, m, j, not of_weights)
            to = places[p - n + j]
            if to != ROW:
                w[to : to + m] = w[ROW : ROW + m]
        for a in range(p):
            left = w[places[a] : places[a] + BLOCK]
            for b in range(a, a + 1 if diagonal else p):
                out[at // 65536, a, b] += dot(left, w[places[b] : places[b] + BLOCK], m, lanes)
    for grain in range(out.shape[0]):
        for a in range(p):
            for b in range(a):
                out[grain, a, b] = out[grain, b, a]


@_jit
def mass(place, out):  # type: ignore[no-untyped-def]
    """Adds the magnitudes of each model's deltas to the grain of `out` they lie in."""
    n, count, w = len(place[3]), place[6], place[11]
    lanes = np.empty(32, np.float64)
    for at in range(0, count, BLOCK):
        m = begin(place, at)
        for j in range(n):
            model(place, at, m, j, True)
            row = w[ROW : ROW + BLOCK]
            lanes[:] = 0.0
            whole = m - m % 32
            for i in range(0, whole, 32):
                for k in range(32):
                    lanes[k] += abs(np.float64(row[i + k]))
            total = 0.0
            for k in range(32):
                total += lanes[k]
            for i in range(whole, m):
                total += abs(np.float64(row[i]))
            out[at // 65536, j] += total


@_jit
def elected(place, out):  # type: ignore[no-untyped-def]
    """Adds the magnitudes of each model's deltas, and of the unified ones where it agrees, to their grain."""
    n, count, w = len(place[3]), place[6], place[11]
    zero = w.dtype.type(0)
    lanes, agreed = np.empty(32, np.float64), np.empty(32, np.float64)
    for at in range(0, count, BLOCK):
        m = begin(place, at)
        unify(place, at, m)
        for i in range(m, BLOCK):
            w[SUM + i] = zero
        for j in range(n):
            row, unified = w[KEPT + j * BLOCK : KEPT + (j + 1) * BLOCK], w[SUM : SUM + BLOCK]
            for i in range(m, BLOCK):
                row[i] = zero
            lanes[:] = 0.0
            agreed[:] = 0.0
            for i in range(0, BLOCK, 32):
                for k in range(32):
                    x, y = row[i + k], unified[i + k]
                    same = ((x > zero) & (y > zero)) | ((x < zero) & (y < zero))
                    lanes[k] += np.float64(abs(x))
                    agreed[k] += np.float64(abs(y) if same else zero)
            total, chosen = 0.0, 0.0
            for k in range(32):
                total += lanes[k]
                chosen += agreed[k]
            out[at // 65536, 0, j] += total
            out[at // 65536, 1, j] += chosen


@_jit
def tally32(pattern, m, low, shift, below, bins, j, hit):  # type: ignore[no-untyped-def]
    """Counts the float32 patterns of a block under and in window j; the sign is not looked at."""
    size = bins.shape[1]
    hits = hit.view(np.uint64)
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
    for i in range(m, BLOCK):
        hit[i] = 0
    # Few elements lie in the window: eight are passed over at a time.
    for word in range(BLOCK // 8):
        if hits[word] != 0:
            for i in range(8 * word, 8 * word + 8):
                if hit[i] != 0:
                    bins[j, np.uint32(pattern[i] - first) >> by] += 1


@_jit
def tally64(pattern, m, low, shift, below, bins, j):  # type: ignore[no-untyped-def]
    """Counts the float64 patterns of a block under and in window j; the sign is not looked at."""
    size = np.uint64(bins.shape[1])
    first, by = low[j], np.uint64(shift[j])
    for i in range(m):
        b = pattern[i] & np.uint64(0x7FFFFFFFFFFFFFFF)
        if b < first:
            below[j] += 1
        elif (b - first) >> by < size:
            bins[j, np.int64((b - first) >> by)] += 1


@_jit
def tally(patterns, low, shift, below, bins):  # type: ignore[no-untyped-def]
    """Counts patterns (n, elements) under and in the windows: row j's are j, j + n, ..."""
    size = np.uint64(bins.shape[1])
    for window in range(len(low)):
        row = patterns[window % len(patterns)]
        first, by, under = low[window], np.uint64(shift[window]), 0
        for i in range(len(row)):
            at = (row[i] - first) >> by
            if row[i] < first:
                under += 1
            elif at < size:
                bins[window, np.int64(at)] += 1
        below[window] += under


@_jit
def magnitudes32(place, low, shift, below, bins, every):  # type: ignore[no-untyped-def]
    """Counts bit patterns of float32 magnitudes under and in the windows: model j's are j, j + n, ..."""
    n, count, w = len(place[3]), place[6], place[11]
    offsets, lead = place[1], 1 if place[4] else 0
    pattern, hit = w[ROW : ROW + BLOCK].view(np.uint32), np.zeros(BLOCK, np.uint8)
    for at in range(0, count, BLOCK * every):
        m = begin(place, at)
        for j in range(n):
            if j == 0 or offsets[lead + j] != offsets[lead + j - 1]:  # else what is in hand is this model's
                model(place, at, m, j, True)
            for window in range(j, len(low), n):
                tally32(pattern, m, low, shift, below, bins, window, hit)


@_jit
def magnitudes64(place, low, shift, below, bins, every):  # type: ignore[no-untyped-def]
    """Counts bit patterns of float64 magnitudes under and in the windows: model j's are j, j + n, ..."""
    n, count, w = len(place[3]), place[6], place[11]
    pattern = w[ROW : ROW + BLOCK].view(np.uint64)
    for at in range(0, count, BLOCK * every):
        m = begin(place, at)
        for j in range(n):
            model(place, at, m, j, True)
            for window in range(j, len(low), n):
                tally64(pattern, m, low, shift, below, bins, window)


@_jit
def zeros(w, m):  # type: ignore[no-untyped-def]
    """Counts zeros of SPREAD."""
    found = np.uint32(0)
    for i in range(m):
        found = np.uint32(found + np.uint32(w[SPREAD + i] == 0))
    return np.int64(found)


@_jit
def spreads32(place, low, shift, below, bins, every):  # type: ignore[no-untyped-def]
    """Counts bit patterns of float32 spreads under and in the one window; returns how many spreads are zero."""
    count, w, upto = place[6], place[11], len(place[7])
    pattern, hit = w[SPREAD : SPREAD + BLOCK].view(np.uint32), np.zeros(BLOCK, np.uint8)
    none = 0
    for at in range(0, count, BLOCK * every):
        m = begin(place, at)
        spread(place, at, m, upto)
        none += zeros(w, m)
        tally32(pattern, m, low, shift, below, bins, 0, hit)
    return none


@_jit
def spreads64(place, low, shift, below, bins, every):  # type: ignore[no-untyped-def]
    """Counts bit patterns of float64 spreads under and in the one window; returns how many spreads are zero."""
    count, w, upto = place[6], place[11], len(place[7])
    pattern = w[SPREAD : SPREAD + BLOCK].view(np.uint64)
    none = 0
    for at in range(0, count, BLOCK * every):
        m = begin(place, at)
        spread(place, at, m, upto)
        none += zeros(w, m)
        tally64(pattern, m, low, shift, below, bins, 0)
    return none


@_jit
def overlaps(place, out):  # type: ignore[no-untyped-def]
    """Adds to `out` (n, 2) how many deltas of each model are not zero, and of how many of those no other model's is."""
    n, count, w = len(place[3]), place[6], place[11]
    zero, one = w.dtype.type(0), w.dtype.type(1)
    for at in range(0, count, BLOCK):
        m = begin(place, at)
        for i in range(2 * BLOCK):
            w[FIRST + i] = 0
        for j in range(n):
            model(place, at, m, j, True)
            name = w.dtype.type(j)
            active = np.uint32(0)
            for i in range(BLOCK):
                moved = w[ROW + i] != zero
                w[FIRST + i] += w.dtype.type(moved)
                w[SECOND + i] = name if moved else w[SECOND + i]
            for i in range(m):
                active = np.uint32(active + np.uint32(w[ROW + i] != zero))
            out[j, 0] += active
        for j in range(n):
            name = w.dtype.type(j)
            alone = np.uint32(0)
            for i in range(m):
                alone = np.uint32(alone + np.uint32((w[FIRST + i] == one) & (w[SECOND + i] == name)))
            out[j, 1] += alone


@_jit
def votes(place, weight):  # type: ignore[no-untyped-def]
    """Counts elements whose plus side has more mass, less those whose minus side has."""
    n, count, w = len(place[3]), place[6], place[11]
    total = 0
    for at in range(0, count, BLOCK):
        m = begin(place, at)
        for i in range(4 * BLOCK):
            w[PLUS + i] = 0
        for j in range(n):
            model(place, at, m, j, True)
            side(w, weight[j], AGREE_SUM)
        for i in range(m):
            vote = w[PLUS + i] + w[MINUS + i]
            total += (vote > 0) - (vote < 0)
    return total
