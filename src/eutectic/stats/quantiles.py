"""Exact quantiles of magnitudes, and of what differs from model to model: cuts, bands and spreads."""

import math
from dataclasses import dataclass
from typing import Literal

from eutectic.numerics import kernels
from eutectic.numerics.kernels import BINS
from eutectic.numerics.stages import Band, Floats, Numbers, band, spread
from eutectic.stats.fold import Again, OfWeights, Part, Seen
from eutectic.stats.window import (
    Window,
    magnitude_patterns,
    magnitudes_of,
    narrow,
    open_window,
    sampled_sweeps,
    size_of,
    tally,
)

Rank = Literal["official", "exact", "mask_rate"]


def kept_rank(total: int, density: float, rank: Rank) -> int:
    """Returns the 1-based rank, from the smallest, of the magnitude at which keeping starts; 0 keeps all.

    `official` (TIES authors' code): total - int(total * density), so int(total * density) + 1 are kept and all equals.
    `exact` (mergekit): max(1, int(density * total)) are kept. `mask_rate` (MergeLM): int(total * (1 - density)), where
    products of floats are truncated as those codes truncate them.
    """
    if density >= 1:
        return 0
    if rank == "official":
        return total - int(total * density)
    if rank == "exact":
        return total - max(1, int(density * total)) + 1
    return int(total * round(1 - density, 15))  # 1 - 0.9 is 0.1 and not 0.09999999999999998


@dataclass(frozen=True)
class Quantiles(OfWeights):
    """What searches among magnitudes share: what they are shown, how often, and how states are joined."""

    def sample(self, state: Window) -> int:
        return state.sampling

    def sweeps(self, total: int, double: bool) -> float:
        return sampled_sweeps(total, double)

    def update(self, state: Window, seen: Seen) -> None:
        if seen.rows is not None:
            kernels.magnitudes(seen.rows, state.low, state.shift, state.below, state.bins)
        else:
            tally(state, magnitude_patterns(seen.deltas))

    def combine(self, left: Window, right: Window) -> Window:
        left.below += right.below
        left.bins += right.bins
        left.zeros += right.zeros
        return left


@dataclass(frozen=True)
class MagnitudeQuantile(Quantiles):
    """The exact k-th smallest magnitude of each model's deltas over a scope: a tuple of n numbers.

    Found by counting bit patterns (whose order is that of the magnitudes) in a window that narrows to one pattern,
    never by sorting. Where the first window lies is guessed from a sample, which decides how many sweeps are needed and
    not what they find: the sample and one full count for all but contrived data.
    A cut of 0 keeps everything; of infinity, nothing (density 0).
    """

    density: Numbers = (1.0,)
    rank: Rank = "official"

    def init(self, parts: list[Part], n: int, double: bool) -> Window:
        return open_window(size_of(parts), n, double)

    def finish(self, state: Window) -> Numbers | Again:
        shares = self.density * len(state.below) if len(self.density) == 1 else self.density
        found = narrow(state, [kept_rank(state.total, share, self.rank) for share in shares])
        if isinstance(found, Again):
            return found
        cuts = magnitudes_of(found, state.double).tolist()
        return tuple(math.inf if share <= 0 else cut for share, cut in zip(shares, cuts, strict=True))

    def nbytes(self, parts: list[Part], n: int) -> int:
        return n * BINS * 8


@dataclass(frozen=True)
class MagnitudeBand(Quantiles):
    """The magnitudes between which each model keeps its deltas when its largest go too: (2, n), lows and highs.

    Which ranks they are says `numerics.stages.band`. Both are found in one count, as `MagnitudeQuantile` finds one.
    """

    kept: Numbers = (1.0,)
    removed: Numbers = (0.0,)
    first: Literal["removed", "kept"] = "removed"

    def init(self, parts: list[Part], n: int, double: bool) -> Window:
        return open_window(size_of(parts), 2 * n, double)

    def finish(self, state: Window) -> Floats | Again:
        edges = [band(state.total, *shares, self.first) for shares in zip(self.kept, self.removed, strict=True)]
        found = narrow(state, [_above(start, stop) for start, stop in edges] + [stop for _, stop in edges])
        if isinstance(found, Again):
            return found
        cuts = magnitudes_of(found, state.double).reshape(2, len(edges))
        # A band that is empty has no place between two ranks.
        cuts[:, [start == stop for start, stop in edges]] = [[math.inf], [-1.0]]
        return cuts

    def nbytes(self, parts: list[Part], n: int) -> int:
        return 2 * n * BINS * 8


def _above(start: int, stop: int) -> int:
    """The rank, from 1, at which a band begins; 0 where nothing is cut below."""
    return min(start + 1, stop) if start else 0


def band_of(edges: Floats) -> Band:
    """Returns the stage that keeps what lies in a `MagnitudeBand`."""
    low, high = edges.tolist()
    return Band(tuple(low), tuple(high))


@dataclass(frozen=True)
class SpreadQuantile(Quantiles):
    """The spread over the models that the `share` of elements with the most of it reach: a tuple of one number.

    The spread is n times the variance of an element's n deltas; `int(share * m)` elements are wanted, of the m whose
    spread is not zero. Infinite when that is none. Found as `MagnitudeQuantile` finds its cuts.
    """

    share: float = 1.0

    def init(self, parts: list[Part], n: int, double: bool) -> Window:
        return open_window(size_of(parts), 1, double)

    def update(self, state: Window, seen: Seen) -> None:
        if seen.rows is not None:
            state.zeros += kernels.spreads(seen.rows, state.low, state.shift, state.below, state.bins)
        else:
            spreads = spread(seen.deltas)
            state.zeros += int((spreads == 0).sum())
            tally(state, magnitude_patterns(spreads[None]))

    def finish(self, state: Window) -> Numbers | Again:
        zeros = state.zeros
        if state.sampling > 1:  # of a sample, whose window covers everything
            zeros = round(state.total * zeros / max(1, int(state.below.sum() + state.bins.sum())))
        count = int((state.total - zeros) * self.share)
        if count <= 0 and state.sampling == 1:
            return (math.inf,)
        found = narrow(state, [state.total - max(count, 1) + 1])
        return found if isinstance(found, Again) else tuple(magnitudes_of(found, state.double).tolist())

    def nbytes(self, parts: list[Part], n: int) -> int:
        return BINS * 8
