"""Numba loops over whole rows: softmaxes and how far they diverge, in float64.

As in `loops`, all scratch lies in one array so that the compiler sees what does not overlap, and loops go over whole
blocks. The exponential is written out because the library's is not vectorised here: range reduction by 2^k, where k is
read off the last bits of a sum with 1.5 * 2^52, and a polynomial of degree 11 (relative error below 1e-14).
"""

import math

import numpy as np
from numba import njit

from eutectic.numerics.instructions import widest
from eutectic.numerics.loops import BASE, BLOCK, ROW, begin, model

#: Exponentials of rows up to this length are kept between the two passes; longer rows are computed again.
KEPT_WIDTH = 16 * BLOCK
#: Where the scratch begins: sums' terms, and pairs of blocks of exponentials (base, model).
TERMS, PAIRS = 0, BLOCK
SCRATCH = PAIRS + 2 * KEPT_WIDTH

_MAGIC = 6755399441055744.0
_LOG2E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 0.6931471803691238, 1.9082149292705877e-10
#: |p / q - 1| up to which the divergence of one element is a series.
_NEAR = 0.0625

_jit = njit(cache=True, nogil=True, error_model="numpy")


@_jit
def exponentials(w, at, shift, s, to):  # type: ignore[no-untyped-def]
    """Writes exp(w - shift) of the work row at `at` to `s` at `to`; magnitudes beyond e^700 are cut to that."""
    widest()
    values, made, sums = w[at : at + BLOCK], s[to : to + BLOCK], s[TERMS : TERMS + BLOCK]
    for i in range(BLOCK):
        x = np.float64(values[i]) - shift
        x = -700.0 if x < -700.0 else x  # a NaN stays
        x = 700.0 if x > 700.0 else x
        t = x * _LOG2E + _MAGIC
        k = t - _MAGIC
        r = (x - k * _LN2_HIGH) - k * _LN2_LOW
        p = 1 / 39916800 * r + 1 / 3628800
        p = p * r + 1 / 362880
        p = p * r + 1 / 40320
        p = p * r + 1 / 5040
        p = p * r + 1 / 720
        p = p * r + 1 / 120
        p = p * r + 1 / 24
        p = p * r + 1 / 6
        p = p * r + 0.5
        p = p * r + 1.0
        made[i] = p * r + 1.0
        sums[i] = t
    bits, powers = made.view(np.int64), sums.view(np.int64)
    for i in range(BLOCK):
        bits[i] += powers[i] << np.int64(52)


@_jit
def total(s, at):  # type: ignore[no-untyped-def]
    """Adds the numbers of a block by halves, over the terms: always in the same order. What is past the row is 0."""
    widest()
    numbers, found = s[at : at + BLOCK], s[TERMS : TERMS + BLOCK]
    for i in range(BLOCK // 2):
        found[i] = numbers[i] + numbers[BLOCK // 2 + i]
    half = BLOCK // 4
    while half > 0:
        left, right = found[:half], found[half : 2 * half]
        for i in range(half):
            left[i] += right[i]
        half //= 2
    return found[0]


@_jit
def pair(place, at, stop, shifts, s, to):  # type: ignore[no-untyped-def]
    """Writes the exponentials of a block of the base and of the model, and 0 past the row's end."""
    widest()
    w = place[11]
    m = min(begin(place, at), stop - at)
    model(place, at, m, 0, False)
    exponentials(w, BASE, shifts[0], s, to)
    exponentials(w, ROW, shifts[1], s, to + BLOCK)
    s[to + m : to + BLOCK] = 0.0
    s[to + BLOCK + m : to + 2 * BLOCK] = 0.0


@_jit
def largest(place, first, stop, shifts):  # type: ignore[no-untyped-def]
    """Sets the shifts to the largest number of each row."""
    widest()
    w = place[11]
    shifts[:] = -np.inf
    for at in range(first, stop, BLOCK):
        begin(place, at)
        m = min(BLOCK, stop - at)
        model(place, at, m, 0, False)
        for i in range(m):
            shifts[0] = max(shifts[0], w[BASE + i])
            shifts[1] = max(shifts[1], w[ROW + i])


@_jit
def sums(place, first, stop, shifts, s, kept, out):  # type: ignore[no-untyped-def]
    """Adds up the exponentials of a row of the base and of the model, and keeps them where there is room."""
    widest()
    out[:] = 0.0
    for at in range(first, stop, BLOCK):
        to = PAIRS + (2 * (at - first) if kept else 0)
        pair(place, at, stop, shifts, s, to)
        out[0] += total(s, to)
        out[1] += total(s, to + BLOCK)


@_jit
def terms(s, to, scales, eps):  # type: ignore[no-untyped-def]
    """Writes q * ((1 + u) log(1 + u) - u) with u = p / q - 1, which is never below 0 and adds up to the divergence."""
    widest()
    base, model, found = s[to : to + BLOCK], s[to + BLOCK : to + 2 * BLOCK], s[TERMS : TERMS + BLOCK]
    first, second = scales[0], scales[1]
    far = np.int64(0)
    for i in range(BLOCK):
        q = base[i] * first + eps
        p = model[i] * second + eps
        u = (p - q) / q
        h = 1 / 72 - u * (1 / 90)
        h = 1 / 56 - u * h
        h = 1 / 42 - u * h
        h = 1 / 30 - u * h
        h = 1 / 20 - u * h
        h = 1 / 12 - u * h
        h = 1 / 6 - u * h
        h = 0.5 - u * h
        found[i] = q * (u * u * h)
        far += np.int64(abs(u) > _NEAR)
    if far > 0:
        for i in range(BLOCK):
            q = base[i] * first + eps
            p = model[i] * second + eps
            u = (p - q) / q
            if abs(u) > _NEAR:
                found[i] = q * ((1 + u) * math.log1p(u) - u)


@_jit
def divergence(place, width, eps, out):  # type: ignore[no-untyped-def]
    """Writes the divergence of each row of the one model from the base's; the slice holds whole rows of `width`."""
    widest()
    s = np.zeros(SCRATCH, np.float64)
    shifts, scales = np.zeros(2, np.float64), np.zeros(2, np.float64)
    kept = width <= KEPT_WIDTH
    for row in range(len(out)):
        first, stop = row * width, (row + 1) * width
        shifts[:] = 0.0
        sums(place, first, stop, shifts, s, kept, scales)
        if not (min(scales[0], scales[1]) > 1e-250 and max(scales[0], scales[1]) < 1e250):  # out of float's range
            largest(place, first, stop, shifts)
            sums(place, first, stop, shifts, s, kept, scales)
        scales[0], scales[1] = 1 / scales[0], 1 / scales[1]
        found = 0.0
        for at in range(first, stop, BLOCK):
            to = PAIRS + (2 * (at - first) if kept else 0)
            if not kept:
                pair(place, at, stop, shifts, s, to)
            terms(s, to, scales, eps)
            found += total(s, TERMS)
        out[row] = found
