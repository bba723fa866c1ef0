"""Runs a plan: stage, read, fold, merge, write, sync, put in place."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from eutectic.checkpoint.cast import Cast
from eutectic.checkpoint.sidecars import RECEIPT, RECIPE, Sidecar, write_sidecars
from eutectic.checkpoint.source import Buffer, Source
from eutectic.checkpoint.spec import DTYPES
from eutectic.checkpoint.writer import ShardWriter, write_index
from eutectic.engine.chain import Chain
from eutectic.engine.events import Event, Finished, Observer, Progress, Started
from eutectic.engine.execute import Executor
from eutectic.engine.extras import places
from eutectic.engine.journal import Journal
from eutectic.engine.measurements import measurements
from eutectic.engine.meter import Meter
from eutectic.engine.reader import Worker
from eutectic.engine.receipt import Receipt, describe_fates, describe_inputs, versions
from eutectic.engine.staging import Staging, finished
from eutectic.engine.sweep import share
from eutectic.errors import CheckpointError, MismatchError
from eutectic.numerics import kernels
from eutectic.numerics.tensors import one_thread
from eutectic.plan.domains import without_data
from eutectic.plan.spans import work_doubles
from eutectic.plan.steps import Copied, Feed, Merged, Plan

#: Bytes of one copied piece.
PIECE = 4 << 20
#: Seconds between syncs: what a power cut can cost, and how early the disk starts on what is written.
SYNC_EVERY = 1.0


def run(
    plan: Plan, out: Path, *, version: str, resume: bool = True, watch: Sequence[Observer] = (), card: str = ""
) -> Receipt:
    """Carries out a plan; the output folder appears whole or not at all.

    Args:
        plan: what to do.
        out: the output folder; new, empty, or this very job's own finished output.
        version: of eutectic, for the receipt.
        resume: go on where an earlier run of this job was stopped.
        watch: called with events; they change nothing.
        card: text of the model card.

    Raises:
        OutputError: when the folder cannot be used, or the disk is full or fails; finished work stays for a resume.
        CheckpointError: when an input cannot be read or changed meanwhile, or a result is not finite.
        MismatchError: when buffers that must be equal are not.
    """
    before = finished(out, plan.job)
    if before is not None:
        return Receipt.from_dict(before)
    chains = chains_of(plan)
    # Compiled loops are fetched from their cache before the clock starts: that is start-up, not merging.
    for double in {chain.double for chain in chains if chain.fused}:
        kernels.warm(double)
    start = time.perf_counter()
    check_buffers(plan)
    staging = Staging(out, plan.job, resume=resume)
    try:
        with Meter() as meter:
            resumed = staging.journal.resumes
            _write_weights(plan, chains, staging, resumed, watch)
            write_index(staging.folder, plan.layout)
            write_sidecars(staging.folder, plan.sidecars)
        memory = {"budget": plan.budget, "planned": plan.peak, "peak": meter.peak, "before": meter.before}
        receipt = Receipt(
            plan.job,
            plan.recipe.to_dict(),
            describe_inputs(plan),
            versions(version),
            describe_fates(plan),
            staging.journal.non_finite,
            memory,
            round(time.perf_counter() - start, 3),
            plan.schedule.threads,
            resumed,
            plan.writes,
            dict(plan.losses()) if plan.losses is not None else {},
            list(plan.notes),
        )
        _write_text(staging.folder / RECIPE, plan.recipe.to_yaml())
        _write_text(staging.folder / "README.md", card)
        _write_text(staging.folder / RECEIPT, receipt.to_json())
        staging.publish()
        receipt = replace(
            receipt, seconds=round(time.perf_counter() - start, 3)
        )  # to the rename, which the file cannot know
    finally:
        staging.close()
    _tell(watch, Finished(receipt.seconds, plan.writes))
    return receipt


def chains_of(plan: Plan, stage: str = "") -> list[Chain]:
    """Returns the chain of every merged site, in output order; `stage` keeps its draws apart from other recipes'."""
    doubles = work_doubles(plan.recipe, plan.merged)
    measured = measurements(plan.demands, plan.calibration)
    sites = plan.merged
    if measured is not None:
        # Layers that no sample reached (experts of a mixture, a head that was not run) have no statistics.
        sites = tuple(without_data(site, lacking) if (lacking := measured.lacks(site)) else site for site in sites)
        measured.settle(sites)
    return [
        Chain(site, plan.recipe.seed, double, plan.device, stage, measured)
        for site, double in zip(sites, doubles, strict=True)
    ]


def _write_weights(
    plan: Plan, chains: Sequence[Chain], staging: Staging, resumed: bool, watch: Sequence[Observer]
) -> None:
    writer = ShardWriter(staging.folder, plan.files)
    try:
        _tell(watch, Started(plan.reads, plan.writes, resumed))
        with one_thread(), _Sink(plan, writer, staging.journal, watch) as sink:
            _copy_all(plan, sink)
            Executor(plan.inputs, plan.schedule, sink).run(chains)
        for checkpoint in plan.inputs:
            checkpoint.source.check_unchanged()
        writer.seal()
    finally:
        writer.close()


def check_buffers(plan: Plan) -> None:
    """Checks that buffers which must be the same in all models are.

    Raises:
        MismatchError: when one differs; names tensor and models.
    """
    for each in plan.copied:
        if not each.equal:
            continue
        own = _read(plan, each.feed)
        for other in each.equal:
            if not np.array_equal(own, _read(plan, other)):
                names = [plan.inputs[feed.source].reference for feed in (each.feed, other)]
                raise MismatchError(
                    f"{each.spec.name}: a buffer of type {each.spec.dtype} differs between {names[0]} and {names[1]}; "
                    "set buffers: base, or keep one of them by a rule"
                )


def _read(plan: Plan, feed: Feed) -> Buffer:
    out = np.empty(feed.numel * feed.dtype.bits // 8, np.uint8)
    plan.inputs[feed.source].source.read_into(feed.name, 0, out)
    return out


def _copy_all(plan: Plan, sink: "_Sink") -> None:
    """Copies what is not merged, on all threads."""

    def pieces() -> Iterator[tuple[Copied, Source, int, int]]:
        for each in plan.copied:
            source = plan.inputs[each.feed.source].source
            if each.spec.dtype != each.feed.dtype:
                source = Cast(source, each.spec.dtype)
            step = max(1, PIECE * 8 // each.spec.dtype.bits)
            for start, stop in sink.missing(each.spec.name, each.spec.numel):
                for at in range(start, max(stop, start + 1), step):
                    yield each, source, at, min(stop, at + step)

    def copy(worker: Worker, piece: tuple[Copied, Source, int, int]) -> None:
        each, source, start, stop = piece
        data = worker.out((stop - start) * each.spec.dtype.bits // 8, sink.phase(each, start))
        source.read_into(each.feed.name, start, data)
        sink.put(each.spec.name, start, stop, each.spec.dtype.bits, data)
        sink.progress(len(data), "copying")

    share(pieces(), [Worker(plan.inputs) for _ in range(plan.schedule.threads)], copy)


class _Sink:
    """Takes merged bytes to the writer and the journal, and syncs both while work goes on."""

    def __init__(self, plan: Plan, writer: ShardWriter, journal: Journal, watch: Sequence[Observer]) -> None:
        self._plan, self._writer, self._journal, self._watch = plan, writer, journal, watch
        self._lock = threading.Lock()
        self._read = 0
        self._failed: list[BaseException] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sync_often, daemon=True)

    def missing(self, name: str, numel: int) -> Iterator[tuple[int, int]]:
        """Yields the element ranges still to be written."""
        return self._journal.missing(name, numel)

    def result(self, key: str) -> Any:
        """Returns a statistic an earlier run finished, or None."""
        return self._journal.result(key)

    def found(self, key: str, value: Any) -> None:
        """Stores the result of a statistic."""
        self._journal.found(key, value)

    def phase(self, site: Merged | Copied, start: int) -> int:
        """Returns where in a page of the output that element lies."""
        return self._writer.phase(site.spec.name, start * site.spec.dtype.bits // 8)

    def write(self, site: Merged, start: int, stop: int, data: Buffer, bad: int, extras: Sequence[Buffer]) -> None:
        """Takes the bytes of elements start..stop of a merged site, and its extras."""
        name = site.spec.name
        if bad and self._plan.recipe.non_finite == "error":
            raise CheckpointError(
                f"{name}: {bad} of the merged elements {start} to {stop} are NaN or infinite, because "
                f"{self._blame(site, start, stop)}; repair that model, or set non_finite: keep"
            )
        # Before the slice is noted as done: done means all that comes of it.
        for place, first, part in places(site, self._plan.has_base, start, extras):
            self._writer.write(place, first, part)
        self.put(name, start, stop, site.spec.dtype.bits, data, bad)

    def put(self, name: str, start: int, stop: int, bits: int, data: Buffer, bad: int = 0) -> None:
        """Writes bytes and notes them; raises what a sync met meanwhile."""
        if self._failed:
            raise self._failed[0]
        self._writer.write(name, start * bits // 8, data)
        self._journal.done(name, start, stop, bad)

    def progress(self, nbytes: int, doing: str) -> None:
        """Counts bytes read and tells the observers."""
        with self._lock:
            self._read += nbytes
            _tell(self._watch, Progress(self._read, self._plan.reads, doing))

    def _blame(self, site: Merged, start: int, stop: int) -> str:
        """Names the inputs that hold what is not finite."""
        guilty = []
        for feed in site.feeds:
            if feed.zero or start >= feed.numel:
                continue
            end = min(stop, feed.numel)
            data = np.empty((end - start) * 8, np.uint8)
            source = self._plan.inputs[feed.source]
            Cast(source.source, DTYPES["F64"]).read_into(feed.name, start, data)
            if not np.isfinite(data.view(np.float64)).all():
                guilty.append(source.reference)
        return f"{', '.join(guilty)} has such values there" if guilty else "the method's weights made them so"

    def _sync_often(self) -> None:
        while not self._stop.wait(SYNC_EVERY):
            try:
                self._flush()
            except BaseException as error:  # noqa: BLE001 - raised by the next write, in the run's own thread
                self._failed.append(error)
                return

    def _flush(self) -> None:
        notes = self._journal.take()
        self._writer.sync()
        self._journal.commit(notes)

    def __enter__(self) -> "_Sink":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._failed and error is None:
            raise self._failed[0]
        if not self._failed:
            self._flush()  # also after an error: finished work is kept


def _write_text(path: Path, text: str) -> None:
    write_sidecars(path.parent, [Sidecar(path.name, "", content=text.encode())])


def _tell(watch: Sequence[Observer], event: Event) -> None:
    for observer in watch:
        observer(event)
