"""How much memory a run holds, and the schedule that keeps it within a budget.

What counts is what grows with the work: row arenas, output buffers, statistics' states, torch's temporaries. Nothing
here grows with the size of the model but the partial sums of statistics (8 bytes per 65,536 elements and number).
"""

from collections import defaultdict
from collections.abc import Sequence

from eutectic.errors import OverBudget
from eutectic.methods.declare import Locality
from eutectic.numerics.kernels import GRAIN
from eutectic.plan.steps import Memory, Merged, Schedule
from eutectic.quantities import format_bytes
from eutectic.recipe.resolve import ResolvedStep
from eutectic.stats.fold import Part, Scope, Statistic

#: Elements of a slice when memory is no matter: large enough that calls cost nothing, small enough to stay in cache.
SLICE = 16 * GRAIN
#: Bytes of a site that is held while its statistics are taken, at most; one worker's.
HELD = 16 << 20
#: What threads, file tables, the journal and modules loaded late take beside the buffers: measured, rounded up.
SLACK = 34 << 20
#: What torch frees stays with the C allocator, in pieces the next temporary may not fit: measured, twice what is live.
KEPT = 2
#: Pieces from this size on go back to the system at once (the greatest threshold of glibc's malloc).
MAPPED = 32 << 20


#: Bytes that ranking a row takes an element of it, tables included.
RANKING = 96
#: Rows of a slice begin at multiples of this many bytes.
ALIGN = 64


def part_of(site: Merged) -> Part:
    """Returns a site's tensor as statistics know it."""
    return Part(site.spec.name, site.spec.numel, site.spec.shape)


def arena_bytes(site: Merged, elements: int) -> int:
    """Bytes of the rows of one slice."""
    return sum(-(-elements * feed.dtype.bits // 8 // ALIGN) * ALIGN for feed in site.feeds)


def extras_bytes(site: Merged, start: int, elements: int) -> list[int]:
    """Bytes of each extra of one slice, for all models."""
    n = len(site.models)
    return [n * extra.nbytes(start, elements, site.spec.shape, n) for extra in site.extras]


def site_folds(site: Merged) -> list[Statistic]:
    """Returns every statistic a site's chain declares, the ones they come after included."""
    return list(dict.fromkeys(statistic for level in fold_levels(site) for statistic in level))


def fold_levels(site: Merged) -> list[list[Statistic]]:
    """Returns a site's statistics in groups that one walk may take: those of a step that wait for equally many."""
    depths: dict[tuple[int, int], list[Statistic]] = defaultdict(list)
    n = len(site.models)
    for position, step in enumerate(site.steps):
        ones = dict.fromkeys(step.coefficients, (1.0,) * n)
        wanted = list(step.method.folds(**(ones | dict(step.values))).values())
        for statistic in wanted:  # what a statistic comes after is wanted too
            wanted.extend(each for each in statistic.after if each not in wanted)
        for statistic in dict.fromkeys(wanted):
            depths[position, _depth(statistic)].append(statistic)
    sources = (each.source().statistic for step in site.steps for each in step.coefficients.values())
    return [list(dict.fromkeys(sources)), *depths.values()]


def _depth(statistic: Statistic) -> int:
    return max((1 + _depth(each) for each in statistic.after), default=0)


def must_be_whole(site: Merged) -> bool:
    """Whether a site is held whole on its visit: for its map, or for a statistic of its own."""
    own = (fold.whole and fold.scope is Scope.TENSOR for fold in site_folds(site))
    return site.locality is Locality.TENSOR or any(own)


def _slice_bytes(site: Merged, elements: int, double: bool, fused: bool, wholes: Sequence[Statistic] = ()) -> int:
    """Bytes of one slice in flight: its rows, its output, and what computing it takes.

    `wholes` are statistics that see this slice, which is then the tensor, through torch.
    """
    rows = sum(elements * feed.dtype.bits // 8 + 64 for feed in site.feeds)
    out = elements * site.spec.dtype.bits // 8 + sum(extras_bytes(site, 0, elements))
    work, n = 8 if double else 4, len(site.models)
    if fused and not wholes:
        ranked = min(site.spec.numel, GRAIN + 2 * site.width) if site.width > 1 else 0
        return rows + out + ranked * n * len(site.steps) * work + RANKING * site.width
    shape = site.spec.shape if elements == site.spec.numel else (elements,)
    scratch = [0.0] if fused else [_scratch(step, n, shape) for step in site.steps]
    scratch += [statistic.scratch(n, shape) for statistic in wholes]
    live = int(work * (elements * (len(site.feeds) + n + 2) + max(scratch)))
    return rows + out + _kept(elements * work) * live


def _kept(piece: int) -> int:
    """How much memory stays with the allocator for what is live, in temporaries of this size."""
    return KEPT if piece < MAPPED else 1


def _scratch(step: ResolvedStep, n: int, shape: tuple[int, ...]) -> float:
    # One row more than there are models: a base that counts is one of them.
    return step.method.needs_for(dict(step.values)).scratch_elements(n + 1, shape)


class _Costs:
    """What each way to run a site costs."""

    def __init__(self, merged: Sequence[Merged], doubles: Sequence[bool], device: str) -> None:
        self.merged = merged
        self.double = {id(site): double for site, double in zip(merged, doubles, strict=True)}
        self.fused = {id(site): site.fused and device == "cpu" for site in merged}
        self.folds = {id(site): site_folds(site) for site in merged}
        self.wholes = {id(site): [each for each in self.folds[id(site)] if each.whole] for site in merged}
        self.by_rows = {id(site) for site in merged if any(fold.whole_rows for fold in self.folds[id(site)])}
        self.whole = [site for site in merged if site.locality is Locality.TENSOR or self.wholes[id(site)]]
        self.own = [site for site in merged if any(f.scope is Scope.TENSOR for f in self.folds[id(site)])]

    def of(self, site: Merged, elements: int) -> int:
        return _slice_bytes(site, elements, self.double[id(site)], self.fused[id(site)])

    def whole_of(self, site: Merged) -> int:
        """What a site costs that must be whole, for its map or for a statistic."""
        return _slice_bytes(site, site.spec.numel, self.double[id(site)], self.fused[id(site)], self.wholes[id(site)])

    def lane_of(self, site: Merged) -> int:
        """What one thread more takes that works on a site which is whole."""
        n, shape, double = len(site.models), site.spec.shape, self.double[id(site)]
        work = 8 if double else 4
        return _kept(site.spec.numel * work) * int(work * max(_scratch(step, n, shape) for step in site.steps))

    def sliced(self, elements: int) -> int:
        """The dearest slice of that many elements."""
        sites = [site for site in self.merged if site.locality is not Locality.TENSOR]
        return max((self.of(site, self._grid(site, elements)) for site in sites), default=0)

    def _grid(self, site: Merged, elements: int) -> int:
        if site.width > 1:  # a statistic's slices end within rows, which are read to their ends
            return min(site.spec.numel, max(elements, site.width) + 2 * site.width)
        if id(site) in self.by_rows:
            width = site.spec.shape[-1] if len(site.spec.shape) > 1 else site.spec.numel
            return min(site.spec.numel, max(elements, width))
        return min(site.spec.numel, elements)

    def states(self) -> int:
        """The states of the dearest walk: of all statistics taken in it, each over its scope; one worker's."""
        most = 0
        scopes: dict[tuple[Statistic, ...], list[Merged]] = defaultdict(list)
        for site in self.merged:
            for level in fold_levels(site):
                own = [statistic for statistic in level if statistic.scope is Scope.TENSOR]
                most = max(most, _together(own, [site]))
                spanning = tuple(statistic for statistic in level if statistic.scope is Scope.MODEL)
                for some in {spanning, *((each,) for each in spanning)}:
                    scopes[some].append(site)
        for some, sites in scopes.items():
            most = max(most, _together(some, sites))
        return most * 2  # a state and the narrower one that follows it


def _together(statistics: Sequence[Statistic], sites: Sequence[Merged]) -> int:
    parts = [part_of(site) for site in sites]
    return sum(statistic.nbytes(parts, len(sites[0].models)) for statistic in statistics)


def schedule(
    merged: Sequence[Merged], doubles: Sequence[bool], *, budget: int, threads: int, device: str, reserved: int = 0
) -> tuple[Schedule, Memory]:
    """Fits a run into a budget: fewer and smaller slices before fewer threads.

    `reserved`: bytes that inputs hold whatever the schedule (tables of tokens, rows that are predicted).

    Raises:
        OverBudget: when nothing fits; names the dearest site and the least budget that works.
    """
    if reserved:
        try:
            planned, held = schedule(merged, doubles, budget=budget - reserved, threads=threads, device=device)
        except OverBudget as error:
            needed = error.needed + reserved
            text = f"matching tokens holds {format_bytes(reserved)}, and the rest takes "
            text += f"{format_bytes(error.needed)}; give at least --memory {-(-needed // 2**20)}MiB"
            raise OverBudget(text, needed) from error
        return planned, Memory(held.buffers, held.folds, held.slack + reserved)
    costs = _Costs(merged, doubles, device)
    states = costs.states()
    for workers in range(max(1, threads), 0, -1):
        room = (budget - SLACK) // workers - states
        size = SLICE
        while size > GRAIN and costs.sliced(size) > room:
            size //= 2
        whole = max((costs.whole_of(site) for site in costs.whole), default=0)
        if costs.sliced(size) <= room and (not whole or whole <= budget - SLACK - workers * states):
            return _settle(costs, states, budget, workers, size, whole)
    raise _over(costs, states, budget)


def _settle(costs: _Costs, states: int, budget: int, workers: int, size: int, whole: int) -> tuple[Schedule, Memory]:
    room = (budget - SLACK) // workers - states
    slices = costs.sliced(size)
    # A held site is read once; its outputs and temporaries are those of its slices. Holding more than the caches do
    # gains nothing over reading again what the system just read, so what is held does not grow with the model.
    held = [arena_bytes(site, site.spec.numel) for site in costs.own]
    limit = min(room - slices, HELD)
    resident = max((each for each in held if each <= limit), default=0)
    crew, lanes, alone = _crew(costs, budget - SLACK - workers * states, workers, whole)
    lane = max((costs.lane_of(site) for site in costs.whole), default=0)
    held_whole = max(crew * (whole + (lanes - 1) * lane), whole + (alone - 1) * lane)
    buffers = max(workers * (slices + resident), held_whole)
    return Schedule(workers, size, resident, crew, lanes, alone), Memory(buffers, workers * states, SLACK)


def _crew(costs: _Costs, room: int, workers: int, whole: int) -> tuple[int, int, int]:
    """How many sites are whole in memory at once, and how many threads each may use: then, and when it is alone.

    More sites before more threads a site: sites need not wait for one another.
    """
    if not whole:
        return workers, 1, 1
    lane = max(costs.lane_of(site) for site in costs.whole)
    crew = min(workers, len(costs.whole), room // whole)
    lanes, alone = (
        min(workers // sites, 1 + (room // sites - whole) // lane if lane else workers) for sites in (crew, 1)
    )
    return crew, lanes, alone


def _over(costs: _Costs, states: int, budget: int) -> OverBudget:
    cut = [site for site in costs.merged if site.locality is not Locality.TENSOR]
    slices = max(cut, key=lambda site: costs.of(site, min(site.spec.numel, GRAIN)), default=costs.merged[0])
    whole = max(costs.whole, key=costs.whole_of, default=slices)
    size = costs.whole_of(whole) if costs.whole else costs.sliced(GRAIN)
    needed = SLACK + states + max(size, costs.sliced(GRAIN))
    how = "whole" if costs.whole else f"in slices of {GRAIN} elements"
    return OverBudget(
        f"{whole.spec.name}: merging it {how} on one thread takes {format_bytes(needed)}, and the budget is "
        f"{format_bytes(budget)}; give at least --memory {-(-needed // 2**20)}MiB",
        needed,
    )
