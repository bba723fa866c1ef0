"""Statistics of the weights themselves: magnitudes' quantiles, Gram matrices, masses and votes.

Sums are kept per grain (see `numerics.kernels.GRAIN`) in float64 and added in index order at the end, so that slices,
threads and resuming cannot change a bit. Counts are integers and need no such care.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eutectic.numerics import kernels
from eutectic.numerics.kernels import BINS, GRAIN
from eutectic.numerics.stages import Band, Numbers, Ranked, Scale, Select, Stage, Trim, apply, at_step, band, spread
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Again, Of, Origin, Part, Scope, Seen, Statistic

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class OfWeights:
    """What the statistics of this file share: they see each expert's weights."""

    scope: Scope

    @property
    def origin(self) -> Origin:
        return Origin.WEIGHTS

    @property
    def of(self) -> Of:
        return Of.EACH

    @property
    def after(self) -> tuple[Statistic, ...]:
        return ()

    @property
    def by_rows(self) -> bool:
        return False

    @property
    def whole(self) -> bool:
        return False

    @property
    def whole_rows(self) -> bool:
        return False

    def scratch(self, n: int, shape: tuple[int, ...]) -> float:
        return 0.0

    def sample(self, state: Any) -> int:
        return 1

    def sweeps(self, total: int, double: bool) -> float:
        return 1.0


# ---- sums per grain -------------------------------------------------------------------------------------------------


Sums = dict[str, Floats]


def _grains(part: Part) -> int:
    return -(-part.numel // GRAIN)


def _total(state: Sums) -> Floats:
    """Adds all grains of all tensors, in name order and index order, with one rounding per number."""
    blocks = np.concatenate([state[name] for name in sorted(state)])
    flat = blocks.reshape(len(blocks), math.prod(blocks.shape[1:]))  # -1 is undefined when there are no grains
    exact = [math.fsum(column) if np.isfinite(column).all() else float(column.sum()) for column in flat.T]
    return np.array(exact).reshape(blocks.shape[1:])


def _per_grain(rows: Tensor, measure: Callable[[Tensor], Tensor]) -> Floats:
    """The torch reference of a sum per grain: `measure` of each stretch of GRAIN elements, stacked."""
    return torch.stack([measure(part.double()) for part in torch.split(rows, GRAIN, dim=1)]).numpy(force=True)


@dataclass(frozen=True)
class Gram(OfWeights):
    """Inner products of all pairs over a scope: (p, p) float64.

    `of="deltas"`: the n models' differences from the base, p = n. `of="weights"`: the base, if there is one, and the
    models themselves, p = n + 1 or n.
    """

    of_: Literal["deltas", "weights"] = "deltas"

    def init(self, parts: list[Part], n: int, double: bool) -> Sums:
        return {part.name: np.zeros((_grains(part), 0, 0)) for part in parts}

    def update(self, state: Sums, seen: Seen) -> None:
        if seen.rows is not None:
            sums = kernels.gram(seen.rows, self.of_ == "weights")
        else:
            sums = _per_grain(seen.deltas if self.of_ == "deltas" else seen.tensors, lambda x: x @ x.T)
        _place(state, seen, sums)

    def combine(self, left: Sums, right: Sums) -> Sums:
        return _join(left, right)

    def finish(self, state: Sums) -> Floats:
        # Some tensors of a model may come with a base and others without: what all have is the models.
        p = min((grains.shape[1] for grains in state.values() if 0 not in grains.shape), default=0)
        common = {name: grains[:, -p:, -p:] for name, grains in state.items() if grains.shape[1] >= p}
        return _total(common if p else state)

    def nbytes(self, parts: list[Part], n: int) -> int:
        return sum(_grains(part) for part in parts) * (n + 1) ** 2 * 8


@dataclass(frozen=True)
class Energy(OfWeights):
    """Sums of squares over a scope, (n,) float64, of the models' deltas or of the models themselves.

    Of deltas, those only whose spread over the models is at least `select`.
    """

    of_: Literal["deltas", "weights"] = "deltas"
    select: "SpreadQuantile | None" = None

    @property
    def after(self) -> tuple[Statistic, ...]:
        return () if self.select is None else (self.select,)

    def init(self, parts: list[Part], n: int, double: bool) -> Sums:
        return {part.name: np.zeros((_grains(part), n)) for part in parts}

    def update(self, state: Sums, seen: Seen) -> None:
        stages = () if self.select is None else (Select(*seen.results[self.select]),)
        if seen.rows is not None:
            sums = kernels.energy(seen.rows.then(*stages), self.of_ == "weights")
        else:
            sums = _per_grain(seen.after(stages) if self.of_ == "deltas" else seen.tensors, lambda x: x.square().sum(1))
        # Some tensors of a model may come with a base and others without; it is no model.
        _place(state, seen, sums[:, sums.shape[1] - state[seen.name].shape[1] :])

    def combine(self, left: Sums, right: Sums) -> Sums:
        return _join(left, right)

    def finish(self, state: Sums) -> Floats:
        return _total(state)

    def nbytes(self, parts: list[Part], n: int) -> int:
        return sum(_grains(part) for part in parts) * n * 8


def _place(state: Sums, seen: Seen, sums: Floats) -> None:
    """Writes a slice's grains where they belong, making room on the tensor's first slice."""
    if state[seen.name].shape[1:] != sums.shape[1:]:
        state[seen.name] = np.zeros((-(-seen.numel // GRAIN), *sums.shape[1:]))
    first = seen.start // GRAIN
    state[seen.name][first : first + len(sums)] = sums


def _join(left: Sums, right: Sums) -> Sums:
    for name, grains in right.items():
        if left[name].shape == grains.shape:
            left[name] += grains
        elif 0 not in grains.shape[1:]:  # the other state has seen this tensor, be it empty
            left[name] = grains
    return left


@dataclass(frozen=True)
class Mass(OfWeights):
    """Sums of magnitudes of the deltas over a scope, (n,) float64.

    Attributes:
        cut: only those that reach the model's cut.
        band: only those that lie in the model's band.
        kept: only those that this stage keeps, drawn from the key of the chain position where it is asked for.
    """

    cut: "MagnitudeQuantile | None" = None
    band: "MagnitudeBand | None" = None
    kept: Stage | None = None

    @property
    def after(self) -> tuple[Statistic, ...]:
        return tuple(each for each in (self.cut, self.band) if each is not None)

    @property
    def by_rows(self) -> bool:
        return isinstance(self.kept, Ranked)

    def init(self, parts: list[Part], n: int, double: bool) -> Sums:
        return {part.name: np.zeros((_grains(part), n)) for part in parts}

    def update(self, state: Sums, seen: Seen) -> None:
        stages = self._stages(seen)
        if seen.rows is not None:
            sums = kernels.mass(seen.rows.then(*stages))
        else:
            sums = _per_grain(seen.after(stages), lambda x: x.abs().sum(1))
        _place(state, seen, sums)

    def _stages(self, seen: Seen) -> tuple[Stage, ...]:
        stages: tuple[Stage, ...] = () if self.cut is None else (Trim(seen.results[self.cut]),)
        if self.band is not None:
            stages = (*stages, band_of(seen.results[self.band]))
        return stages if self.kept is None else (*stages, at_step(self.kept, seen.key.step))

    def combine(self, left: Sums, right: Sums) -> Sums:
        return _join(left, right)

    def finish(self, state: Sums) -> Floats:
        return _total(state)

    def nbytes(self, parts: list[Part], n: int) -> int:
        return sum(_grains(part) for part in parts) * n * 8


# ---- order statistics -----------------------------------------------------------------------------------------------

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
        found = np.array(patterns, np.uint64)
        return [float(v) for v in (found.view(np.float64) if self.double else found.astype(np.uint32).view(np.float32))]


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
    row = values.abs().numpy(force=True).view(np.uint64 if state.double else np.uint32).astype(np.uint64)
    inside = (row[row >= state.low[which]] - state.low[which]) >> np.uint64(state.shift[which])
    state.below[which] += len(row) - len(inside)
    state.bins[which] += np.bincount(inside[inside < BINS].astype(np.int64), minlength=BINS)


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


def magnitude_patterns(values: Tensor) -> NDArray[np.uint64]:
    """Returns the bit patterns of magnitudes, whose order is theirs."""
    size = values.abs().numpy(force=True)
    return size.view(np.uint64 if size.itemsize == 8 else np.uint32).astype(np.uint64)


def magnitudes_of(patterns: list[int], double: bool) -> Floats:
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


@dataclass(frozen=True)
class SignBalance(OfWeights):
    """The sign of the whole vote: +1 if more elements elect plus than minus by weighted mass, else -1.

    The deltas are trimmed at `cut` first. Source: TIES authors' code, which gives exact zero votes to this majority.
    """

    weight: Numbers = (1.0,)
    cut: MagnitudeQuantile | None = None

    @property
    def after(self) -> tuple[Statistic, ...]:
        return () if self.cut is None else (self.cut,)

    def init(self, parts: list[Part], n: int, double: bool) -> list[int]:
        return [0]

    def update(self, state: list[int], seen: Seen) -> None:
        stages: tuple[Stage, ...] = () if self.cut is None else (Trim(seen.results[self.cut]),)
        if seen.rows is not None:
            weight = self.weight * seen.rows.n if len(self.weight) == 1 else self.weight
            state[0] += kernels.votes(seen.rows.then(*stages), weight)
            return
        deltas = seen.after(stages)
        weight = self.weight * len(deltas) if len(self.weight) == 1 else self.weight
        deltas = apply(Scale(weight), deltas, seen.key)
        plus, minus = deltas[0].clamp(min=0), deltas[0].clamp(max=0)
        for row in deltas[1:]:
            plus, minus = plus + row.clamp(min=0), minus + row.clamp(max=0)
        state[0] += int((plus + minus).sign().nan_to_num(0).sum())

    def combine(self, left: list[int], right: list[int]) -> list[int]:
        return [left[0] + right[0]]

    def finish(self, state: list[int]) -> int:
        return 1 if state[0] > 0 else -1

    def nbytes(self, parts: list[Part], n: int) -> int:
        return 8


@dataclass(frozen=True)
class Overlap(OfWeights):
    """How many deltas of each model are not zero, and of how many of those no other model's is: (n, 2).

    What is smaller than `floor` in magnitude counts as zero.
    """

    floor: float = 0.0

    def init(self, parts: list[Part], n: int, double: bool) -> NDArray[np.int64]:
        return np.zeros((n, 2), np.int64)

    def update(self, state: NDArray[np.int64], seen: Seen) -> None:
        stages = (Trim((self.floor,) * len(state)),)
        if seen.rows is not None:
            state += kernels.overlaps(seen.rows.then(*stages))
            return
        moved = seen.after(stages) != 0
        state[:, 0] += moved.sum(1).numpy(force=True)
        state[:, 1] += (moved & (moved.sum(0) == 1)).sum(1).numpy(force=True)

    def combine(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
        return left + right

    def finish(self, state: NDArray[np.int64]) -> Floats:
        return state.astype(np.float64)

    def nbytes(self, parts: list[Part], n: int) -> int:
        return n * 16


def restoring(everything: Floats, kept: Floats) -> Numbers:
    """Returns the factors that restore each model's mass after some of it was dropped: all / kept.

    Source: mergekit 0.1.5, which leaves a tensor alone when either mass is below 1e-7.
    """
    return tuple(float(a / k) if min(a, k) >= 1e-7 else 1.0 for a, k in zip(everything, kept, strict=True))
