"""Order statistics by counting: the window of bit patterns in which a rank lies, narrowed until it is one pattern.

Bit patterns of magnitudes are in the order of the magnitudes, so nothing is sorted. A sample guesses the first window;
it decides how often all is counted, never what is found. Counts are integers, so slices, threads and resuming cannot
change them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eutectic.numerics import kernels
from eutectic.numerics.kernels import BINS
from eutectic.numerics.stages import Floats
from eutectic.numerics.tensors import Tensor
from eutectic.stats.fold import Again, Part

#: A guess is this wide at least, in share of all ranks on either side.
_MARGIN = 0.003
#: Bins are added up in stretches of so many before one is looked into.
_STRETCH = 512
#: A sample of so many elements narrows the window enough.
_ENOUGH = 1 << 17


@dataclass
class Window:
    """The state of a quantile: for each model, the window of bit patterns still in question, and counts in it.

    Attributes:
        total: elements in the scope.
        double: patterns are of float64 instead of float32.
        sampling: this sweep need see only one element in so many, to guess where to look; 1 when it counts all.
        low: first pattern of each window; `shift`: log2 of the patterns per bin.
        below, bins: how many patterns lie under the window, and in each bin.
        top: the largest pattern there can be.
        zeros: how many of those seen are exactly zero, where that is asked for.
        counted: a sweep before this one counted all.
    """

    total: int
    double: bool
    sampling: int
    low: NDArray[np.uint64]
    shift: NDArray[np.int64]
    below: NDArray[np.int64]
    bins: NDArray[np.int64]
    top: int
    zeros: int = 0
    counted: bool = False

    def narrowed(self, windows: Sequence[tuple[int, int]]) -> "Window":
        """Returns an empty state of the same scope that counts all in these windows (low, shift)."""
        low, shift = zip(*windows, strict=True)
        below, bins = np.zeros(len(low), np.int64), np.zeros(self.bins.shape, np.int64)  # untouched pages cost nothing
        where = np.array(low, np.uint64), np.array(shift)
        return Window(self.total, self.double, 1, *where, below, bins, self.top, counted=self.sampling == 1)

    def values(self, patterns: Sequence[int]) -> list[float]:
        """Returns the magnitudes that have these bit patterns."""
        return list(map(float, magnitudes_of(patterns, self.double)))


def open_window(total: int, n: int, double: bool, enough: int = _ENOUGH, top: int | None = None) -> Window:
    """Returns a state for n quantiles of a scope of `total` elements, in which every pattern is in question.

    A sample of `enough` elements must narrow the windows down; `top` is the largest pattern, by default of magnitudes.
    """
    last = _top(double) if top is None else top
    low, shift = _cover(0, last)
    empty, bins = np.zeros(n, np.int64), np.zeros((n, BINS), np.int64)
    # A small scope is counted whole at once: a sample of it would say too little.
    sampling = min(64, max(1, total // enough))
    return Window(total, double, sampling, np.full(n, low, np.uint64), empty + shift, empty.copy(), bins, last)


def size_of(parts: list[Part]) -> int:
    """Returns how many elements a scope has."""
    return sum(part.numel for part in parts)


def sampled_sweeps(total: int, double: bool, enough: int = _ENOUGH) -> float:
    """How often a scope is shown until its quantiles are known, as a rule."""
    # A float64 pattern takes two windows more to narrow down; a scope too small for a sample, one coarse count.
    first = 1.0 if total < 2 * enough else 1 / min(64, total // enough)
    return first + (3.0 if double else 1.0)


def count(values: Tensor, state: Window, which: int) -> None:
    """The torch reference of `kernels.magnitudes`: counts magnitudes under and in one window of a state."""
    row = magnitude_patterns(values)
    inside = (row[row >= state.low[which]] - state.low[which]) >> np.uint64(state.shift[which])
    state.below[which] += len(row) - len(inside)
    state.bins[which] += np.bincount(inside[inside < BINS].astype(np.int64), minlength=BINS)


def magnitude_patterns(values: Tensor) -> NDArray[np.uint64]:
    """Returns the bit patterns of magnitudes, whose order is theirs."""
    size = values.abs().numpy(force=True)
    return size.view(np.uint64 if size.itemsize == 8 else np.uint32).astype(np.uint64)


def magnitudes_of(patterns: Sequence[int], double: bool) -> Floats:
    """Returns the numbers with these patterns."""
    found = np.array(patterns, np.uint64)
    return found.view(np.float64) if double else found.astype(np.uint32).view(np.float32).astype(np.float64)


def tally(state: Window, patterns: NDArray[np.uint64]) -> None:
    """Counts patterns (n, elements) in the windows, of which there are n or a multiple of n."""
    kernels.tally(patterns, state.low, state.shift, state.below, state.bins)


def narrow(state: Window, ranks: list[int]) -> list[int] | Again:
    """Returns the patterns at these ranks (from 1; 0 is the pattern 0), or what to count next."""
    found: list[int] = []
    windows: list[tuple[int, int]] = []
    for model, rank in enumerate(ranks):
        pattern, window = look(state, model, rank)
        found.append(-1 if pattern is None else pattern)
        windows.append(window)
    if state.sampling == 1 and min(found) >= 0:
        return found
    return Again(state.narrowed(windows))


def _top(double: bool) -> int:
    """The largest magnitude pattern: NaNs sort above infinity."""
    return 0x7FFFFFFFFFFFFFFF if double else 0x7FFFFFFF


def _cover(first: int, last: int) -> tuple[int, int]:
    """Returns the window (low, shift) of BINS bins over the patterns first..last."""
    return first, max(0, ((last - first + 1) - 1).bit_length() - (BINS.bit_length() - 1))


def look(state: Window, model: int, rank: int) -> tuple[int | None, tuple[int, int]]:
    """Looks for a rank in one model's counts.

    Returns:
        The pattern, when it is known exactly, and the window (low, shift) to count next (or to keep).
    """
    low, shift = int(state.low[model]), int(state.shift[model])
    if rank <= 0:
        return 0, (0, 0)
    below, bins = int(state.below[model]), state.bins[model]
    coarse = np.cumsum(bins.reshape(-1, _STRETCH).sum(1))
    counted = below + int(coarse[-1])
    if state.sampling > 1:
        share = rank / state.total
        # Neighbours are alike, so a sample says less than its size.
        margin = max(_MARGIN, 5 * math.sqrt(share * (1 - share) / max(1, counted / 4)))
        start, stop = _between(state, model, coarse, share, margin)
        if 1 << shift <= BINS < stop - start + 1 <= 5 * BINS:
            # A window not much too wide is cut to what one count resolves: being wrong now and then costs less. What
            # is nearest by rank stays, for differences of bfloat16 numbers lie on few and distant patterns.
            while stop - start + 1 > BINS:
                margin *= 0.8
                start, stop = _between(state, model, coarse, share, margin)
            start = max(0, min(start - (BINS - (stop - start + 1)) // 2, state.top - BINS + 1))
            stop = start + BINS - 1
        return None, _cover(start, stop)
    # What was just missed by a guess lies beside it, as a rule; after that everything on that side is in question.
    if rank <= below:
        return None, _cover(0 if state.counted else max(0, low - (BINS << shift)), low - 1)
    if rank > counted:
        after = low + (BINS << shift)
        return None, _cover(after, state.top if state.counted else min(after + (BINS << shift) - 1, state.top))
    found = _bin_of(bins, coarse, rank - below)
    if shift == 0:
        return low + found, (low, 0)
    return None, _cover(low + (found << shift), low + ((found + 1) << shift) - 1)


def _between(state: Window, model: int, coarse: NDArray[np.int64], share: float, margin: float) -> tuple[int, int]:
    """Returns the first and last pattern of the bins in which a sample has the ranks `share` -+ `margin`."""
    low, shift, below, bins = int(state.low[model]), int(state.shift[model]), int(state.below[model]), state.bins[model]
    counted = below + int(coarse[-1])
    first, last = (_bin_of(bins, coarse, math.ceil(counted * (share + side)) - below) for side in (-margin, margin))
    return low + (first << shift), min(low + ((last + 1) << shift) - 1, state.top)


def _bin_of(bins: NDArray[np.int64], coarse: NDArray[np.int64], rank: int) -> int:
    """Returns the bin that holds the rank-th of all counted (from 1), or the first or last for ranks outside.

    `coarse` holds the counts up to the end of each stretch of bins.
    """
    at = min(int(np.searchsorted(coarse, rank)), len(coarse) - 1)
    before = int(coarse[at - 1]) if at else 0
    fine = np.cumsum(bins[at * _STRETCH : (at + 1) * _STRETCH])
    return at * _STRETCH + min(int(np.searchsorted(fine, rank - before)), _STRETCH - 1)
