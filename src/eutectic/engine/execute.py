"""The schedule a plan derived, carried out: sweeps for statistics that span the model, then every site's visit.

A site is visited in one of four ways, all with the same result to the last bit:
sliced (no statistics left to compute: slices of it are tasks of their own), held (small, or it must be whole: its rows
are read once and kept while its statistics and then its merge go over them), walked (one worker goes over its slices
once per statistic, then once more to merge), or swept (so large that the other workers would wait for that one: all go
over its slices together).
"""

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from eutectic.checkpoint.source import Buffer, Checkpoint
from eutectic.engine.chain import Chain, Request
from eutectic.engine.reader import Worker
from eutectic.engine.sweep import share
from eutectic.methods.declare import Locality
from eutectic.methods.extras import BIT
from eutectic.numerics.kernels import GRAIN, Rows
from eutectic.plan.memory import arena_bytes
from eutectic.plan.steps import Merged, Schedule, read_cost
from eutectic.stats.fold import Again, Scope, Statistic

#: A sample is taken in stretches of this many elements: long enough for a disk, short enough to be many.
STRETCH = 16384


class Sink(Protocol):
    """Where merged bytes go, and what is known to be done."""

    def missing(self, name: str, numel: int) -> Iterator[tuple[int, int]]:
        """Yields the element ranges still to be written."""
        ...

    def phase(self, site: Merged, start: int) -> int:
        """Returns where in a page a buffer should lie that starts with that element."""
        ...

    def write(self, site: Merged, start: int, stop: int, data: Buffer, bad: int, extras: Sequence[Buffer]) -> None:
        """Takes the bytes of elements start..stop, of which `bad` are not finite, and the slice's extras."""
        ...

    def result(self, key: str) -> Any:
        """Returns a stored result of a statistic, or None."""
        ...

    def found(self, key: str, value: Any) -> None:
        """Stores the result of a statistic."""
        ...

    def progress(self, nbytes: int, doing: str) -> None:
        """Hears that bytes were read."""
        ...


@dataclass(frozen=True)
class Span:
    """Elements start..stop of one site."""

    chain: Chain
    start: int
    stop: int


class Executor:
    """Carries out sites on workers.

    Args:
        inputs: the open checkpoints the sites' feeds speak of.
        schedule: threads, slice size and what may be held.
        sink: where results go.
    """

    def __init__(self, inputs: Sequence[Checkpoint], schedule: Schedule, sink: Sink) -> None:
        self._inputs, self._schedule, self._sink = inputs, schedule, sink
        self._workers = [Worker(inputs) for _ in range(schedule.threads)]
        self._costs: dict[str, int] = {}

    def run(self, chains: Sequence[Chain]) -> None:
        """Merges every site into the sink."""
        self.settle(chains)
        sliced: list[Span] = []
        visits: list[Chain] = []
        for chain in chains:
            ranges = list(self._sink.missing(chain.part.name, chain.part.numel))
            if not ranges:
                continue
            if chain.site.locality is Locality.TENSOR or chain.requests():
                visits.append(chain)
            else:
                sliced += [span for start, stop in ranges for span in self._cut(chain, start, stop)]
        self._share(sliced, self._map_slice, "merging")
        crew = self._workers[: self._schedule.whole_threads]
        # One worker takes a whole site, unless the others would run out of work before it is done.
        share_of_one = sum(chain.part.numel for chain in visits) // len(crew)
        swept = [each for each in visits if each.part.numel > share_of_one and not each.whole and not self._fits(each)]
        # A site that must be whole, and that the others would wait for, is visited alone, with all threads.
        alone = [each for each in visits if each.part.numel > share_of_one and each.whole]
        self._visit_all(alone, crew[:1], self._schedule.alone)
        self._visit_all([each for each in visits if each not in swept + alone], crew, self._schedule.lanes)
        for chain in swept:
            self.settle_own(chain)
            ranges = list(self._sink.missing(chain.part.name, chain.part.numel))
            spans = [span for start, stop in ranges for span in self._cut(chain, start, stop)]
            self._share(spans, self._map_slice, "merging")

    def _visit_all(self, chains: Sequence[Chain], crew: list[Worker], lanes: int) -> None:
        """Visits sites, the largest first: one met last would keep a single thread busy while the others wait."""
        for chain in chains:
            chain.lanes = lanes
        spans = [Span(chain, 0, chain.part.numel) for chain in sorted(chains, key=lambda each: -each.part.numel)]
        share(self._announced(spans), crew, lambda worker, span: self._visit(worker, span.chain))

    def settle(self, chains: Sequence[Chain]) -> None:
        """Computes the statistics that span the model, and whatever they come after."""
        while True:
            groups: dict[Request, list[Chain]] = defaultdict(list)
            first: list[Chain] = []
            for chain in chains:
                requests = chain.requests()
                if requests and requests[0].statistic.scope is Scope.MODEL:
                    for request in requests:
                        groups[request].append(chain)
                elif requests and chain.spans_model():
                    first.append(chain)
            # Statistics of single tensors that a model-wide one builds on are settled first.
            for chain in first:
                self._settle_level(chain)
            if first:
                continue
            if not groups:
                return
            self._sweep(groups)

    # ---- statistics -------------------------------------------------------------------------------------------------

    def _sweep(self, groups: dict[Request, list[Chain]]) -> None:
        """Computes statistics over several sites at once; those that span the same sites see them in one go."""
        together: dict[tuple[int, ...], list[Request]] = defaultdict(list)
        for request, chains in groups.items():
            together[tuple(map(id, chains))].append(request)
        for requests in together.values():
            self._recall(requests, groups[requests[0]], self._fold)

    def _recall(
        self,
        requests: Sequence[Request],
        chains: Sequence[Chain],
        compute: Callable[[Sequence[Request], Sequence[Chain]], list[Any]],
    ) -> None:
        """Gives sites statistics' results: those an earlier run stored, or else what `compute` finds, stored."""
        found = {request: self._sink.result(_key(request, chains)) for request in requests}
        lacking = [request for request, result in found.items() if result is None]
        for request, result in zip(lacking, compute(lacking, chains) if lacking else (), strict=True):
            self._sink.found(_key(request, chains), result)
            found[request] = result
        for request, result in found.items():
            for chain in chains:
                chain.accept(request, result)

    def _fold(self, requests: Sequence[Request], chains: Sequence[Chain]) -> list[Any]:
        """Shows every slice of some sites to statistics until they are finished; slices alike are read once for all."""
        parts, first = [chain.part for chain in chains], chains[0]

        def walk(states: dict[Request, Any]) -> dict[Request, Any]:
            request, state = next(iter(states.items()))
            every = request.statistic.sample(state)
            spans = [span for chain in chains for span in self._shown(request, chain, every)]
            whole = any(chain.sees_whole(request) for chain in chains)
            workers = self._workers[: self._schedule.whole_threads] if whole else self._workers
            copies = [{each: copy.deepcopy(own) for each, own in states.items()} for _ in workers[1:]]
            mine = dict(zip(map(id, workers), [states, *copies], strict=True))

            def show(worker: Worker, span: Span) -> None:
                rows = worker.load(span.chain, span.start, span.stop)
                for request, state in mine[id(worker)].items():
                    request.statistic.update(state, span.chain.seen(request, rows))

            self._share(spans, show, "measuring", workers)
            return {
                request: _joined(request.statistic, [each[request] for each in mine.values()]) for request in states
            }

        states = {request: request.statistic.init(parts, len(first.site.models), first.double) for request in requests}
        return _finished(states, walk, partial(self._alike, chains))

    def _alike(self, chains: Sequence[Chain], request: Request, state: Any) -> Hashable:
        """What two statistics must have in common to be shown the same slices."""
        whole = tuple(chain.sees_whole(request) for chain in chains)
        return whole, request.statistic.whole_rows, request.statistic.sample(state)

    def settle_own(self, chain: Chain) -> None:
        """Computes all statistics of one large site with all threads."""
        while chain.requests():
            self._settle_level(chain)

    def _settle_level(self, chain: Chain) -> None:
        self._recall(chain.requests(), [chain], self._fold)

    def _fold_alone(
        self, requests: Sequence[Request], chain: Chain, rows: Callable[[int, int], Rows], held: bool
    ) -> list[Any]:
        """Computes statistics of one site on one worker; `rows` gives any stretch of it."""

        def walk(states: dict[Request, Any]) -> dict[Request, Any]:
            request, state = next(iter(states.items()))
            every, whole = request.statistic.sample(state), chain.sees_whole(request)
            if whole:
                cut: Iterable[tuple[int, int]] = [(0, chain.part.numel)]
            elif every > 1 and not held:
                cut = _stretches(chain.part.numel, every)
            else:
                cut = pieces(chain.part.numel, self._steps(chain, request.statistic))
            for start, stop in cut:
                shown = rows(start, stop)
                if held and every > 1 and not whole:
                    shown = shown.sampled(every)
                for request, state in states.items():
                    request.statistic.update(state, chain.seen(request, shown))
            return states

        states = {
            request: request.statistic.init([chain.part], len(chain.site.models), chain.double) for request in requests
        }
        return _finished(states, walk, partial(self._alike, [chain]))

    # ---- the map ----------------------------------------------------------------------------------------------------

    def _map_slice(self, worker: Worker, span: Span) -> None:
        rows = worker.load(span.chain, span.start, span.stop)
        self._write(worker, span.chain, rows)

    def _visit(self, worker: Worker, chain: Chain) -> None:
        """Computes what a site still lacks and merges it: held if it is small or must be whole, else walked."""
        numel = chain.part.numel
        held = worker.load(chain, 0, numel) if chain.whole or self._fits(chain) else None

        def rows(start: int, stop: int) -> Rows:
            if held is not None:
                return held.part(start, stop)
            self._sink.progress(self._cost(chain, stop - start), "merging")
            return worker.load(chain, start, stop)

        if held is not None:
            self._sink.progress(self._cost(chain, numel), "merging")

        def fold(requests: Sequence[Request], chains: Sequence[Chain]) -> list[Any]:
            return self._fold_alone(requests, chains[0], rows, held is not None)

        while requests := chain.requests():
            if held is None:
                self._recall(requests, [chain], fold)
                continue
            for request, result in zip(requests, fold(requests, [chain]), strict=True):
                chain.accept(request, result)
        if chain.site.locality is Locality.TENSOR:
            self._write(worker, chain, rows(0, numel))
            return
        for first, last in list(self._sink.missing(chain.part.name, numel)):
            for start, stop in pieces(last, self.grid(chain), first):
                self._write(worker, chain, rows(start, stop))

    def _write(self, worker: Worker, chain: Chain, rows: Rows) -> None:
        spec = chain.site.spec
        out = worker.out(rows.count * spec.dtype.bits // 8, self._sink.phase(chain.site, rows.start))
        extras = worker.extras(chain.site, rows.start, rows.count)
        bad = chain.combine(rows, out, spec.dtype.name, extras)
        self._sink.write(chain.site, rows.start, rows.start + rows.count, out, bad, extras)

    def show(self, chains: Sequence[Chain], look: Callable[[Chain, Rows], None]) -> None:
        """Shows every slice of some sites, whose statistics are settled, to `look`, on this thread.

        What reads weights again and again between other work would leave each thread's heap full of holes.
        """
        worker = self._workers[0]
        for chain in chains:
            whole = chain.site.locality is Locality.TENSOR
            size = max(1, chain.part.numel) if whole else self.grid(chain)
            for start, stop in pieces(chain.part.numel, size):
                worker.will_need(chain.site, stop, min(chain.part.numel, stop + size))
                look(chain, worker.load(chain, start, stop))

    # ---- slices -----------------------------------------------------------------------------------------------------

    def _fits(self, chain: Chain) -> bool:
        return arena_bytes(chain.site, chain.part.numel) <= self._schedule.resident_bytes

    def grid(self, chain: Chain) -> int:
        """Elements of one slice of a site: a multiple of the grain, or of its rows where it must see whole rows."""
        size, width = self._schedule.slice_elements, row_width(chain.site)
        return max(1, size // width) * width

    def _cut(self, chain: Chain, start: int, stop: int) -> Iterator[Span]:
        grid = self.grid(chain)
        for first, last in pieces(stop, grid, start):
            yield Span(chain, first, last)

    def _shown(self, request: Request, chain: Chain, every: int) -> Iterator[Span]:
        """Cuts a site for a statistic: not at all where it sees the whole tensor, one stretch in `every`, or all."""
        if chain.sees_whole(request):
            return iter([Span(chain, 0, chain.part.numel)])
        if every > 1:
            return self._stretches(chain, every)
        cut = pieces(chain.part.numel, self._steps(chain, request.statistic))
        return (Span(chain, start, stop) for start, stop in cut)

    def _steps(self, chain: Chain, statistic: Statistic) -> int:
        """Elements a statistic is shown at once: whole grains also where the map goes by rows, or whole rows."""
        size, width = self._schedule.slice_elements, chain.part.width
        return max(1, size // width) * width if statistic.whole_rows else size

    def _stretches(self, chain: Chain, every: int) -> Iterator[Span]:
        for start, stop in _stretches(chain.part.numel, every):
            yield Span(chain, start, stop)

    def _cost(self, chain: Chain, elements: int) -> int:
        """Bytes of disk read for so many elements of a site."""
        name = chain.part.name
        if name not in self._costs:
            self._costs[name] = read_cost(chain.site, self._inputs)
        return self._costs[name] * elements // max(1, chain.part.numel)

    def _share(
        self,
        spans: list[Span],
        do: Callable[[Worker, Span], None],
        doing: str,
        workers: list[Worker] | None = None,
    ) -> None:
        def noted(worker: Worker, span: Span) -> None:
            do(worker, span)
            self._sink.progress(self._cost(span.chain, span.stop - span.start), doing)

        share(self._announced(spans), self._workers if workers is None else workers, noted)

    def _announced(self, spans: list[Span]) -> Iterator[Span]:
        """Yields the spans in order, telling the system some of them ahead, bounded in bytes."""
        ahead, window = 0, 0
        sizes = [arena_bytes(span.chain.site, span.stop - span.start) for span in spans]
        for at, span in enumerate(spans):
            while ahead < len(spans) and (window < READ_AHEAD or ahead <= at):
                if ahead > at:
                    self._workers[0].will_need(spans[ahead].chain.site, spans[ahead].start, spans[ahead].stop)
                window += sizes[ahead]
                ahead += 1
            window -= sizes[at]
            yield span


#: Bytes the system is told of before they are read. They are its page cache's, not this process's memory.
READ_AHEAD = 64 << 20


def row_width(site: Merged) -> int:
    """Elements that must be seen together: those of a row where the chain goes by rows, else one.

    Slices of rows whose extras are bits take so many rows that their bits fill bytes; slices in grains always do.
    """
    width = site.width
    return math.lcm(width, 8) if width > 1 and any(extra.dtype == BIT for extra in site.extras) else width


def pieces(stop: int, grid: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """Cuts start..stop at multiples of `grid`; an empty tensor is one empty piece."""
    if start == stop:
        yield start, stop
    while start < stop:
        last = min(stop, (start // grid + 1) * grid)
        yield start, last
        start = last


def _stretches(numel: int, every: int) -> Iterator[tuple[int, int]]:
    """Yields one stretch in `every`; small tensors are shown whole."""
    for start in range(0, max(numel, 1), STRETCH * every):
        yield start, min(numel, start + STRETCH)


def _joined(statistic: Statistic, states: Sequence[Any]) -> Any:
    joined = states[0]
    for other in states[1:]:
        joined = statistic.combine(joined, other)
    return joined


def _finished(
    states: dict[Request, Any],
    walk: Callable[[dict[Request, Any]], dict[Request, Any]],
    alike: Callable[[Request, Any], Hashable],
) -> list[Any]:
    """Walks over the slices until every statistic has its result; in one walk go those that see the same slices."""
    results: dict[Request, Any] = dict.fromkeys(states)
    while states:
        walks: dict[Hashable, dict[Request, Any]] = defaultdict(dict)
        for request, state in states.items():
            walks[alike(request, state)][request] = state
        states = {}
        for members in walks.values():
            for request, state in walk(members).items():
                result = request.statistic.finish(state)
                if isinstance(result, Again):
                    states[request] = result.state
                else:
                    results[request] = result
    return list(results.values())


def _key(request: Request, chains: Sequence[Chain]) -> str:
    """Names a statistic's result in the journal."""
    sites = chains[0].part.name if len(chains) == 1 else f"{len(chains)} tensors from {chains[0].part.name}"
    return f"{request.position}:{request.statistic!r}:{sites}"


assert GRAIN % STRETCH == 0
