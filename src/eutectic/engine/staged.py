"""A recipe as a source: its merged tensors are made as they are read, so no intermediate checkpoint is written."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eutectic.checkpoint.cast import Cast
from eutectic.checkpoint.source import Buffer, Checkpoint
from eutectic.engine.chain import Chain, Room
from eutectic.engine.execute import Executor, pieces, row_width
from eutectic.engine.reader import Worker
from eutectic.engine.run import chains_of, check_buffers
from eutectic.methods.declare import Locality
from eutectic.numerics.kernels import Rows
from eutectic.numerics.tensors import Tensor, one_thread
from eutectic.plan.steps import Copied, Merged, Plan


class Staged:
    """The output of a plan, computed on reading. Statistics it needs are computed before the first read.

    Args:
        plan: the inner recipe's plan; its inputs are closed with this source.
        reference: how messages call it.
    """

    def __init__(self, plan: Plan, reference: str) -> None:
        self.plan = plan
        self.name = reference
        self._chains = {chain.part.name: chain for chain in chains_of(plan, reference)}
        self._copied = {each.spec.name: each for each in plan.copied}
        specs = [site.spec for site in plan.merged] + [each.spec for each in plan.copied]
        found = {spec.name: spec for spec in specs}
        self.header = {name: found[name] for shard in plan.layout.shards for name in shard.offsets}
        self._executor = Executor(plan.inputs, plan.schedule, _Nowhere())
        self._lock = threading.Lock()
        self._settled = False
        self._own = threading.local()

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with elements `start, start + 1, ...` of a merged tensor.

        Raises:
            CheckpointError: when an input of the inner recipe cannot be read.
        """
        self._settle()
        copied = self._copied.get(name)
        if copied is not None:
            self._copy(copied, start, out)
            return
        chain = self._chains[name]
        itemsize = self.header[name].dtype.bits // 8
        if chain.site.locality is Locality.TENSOR:
            whole = self._whole(chain, itemsize)
            out[:] = whole[start * itemsize : start * itemsize + len(out)]
            return
        with self._lock:
            self._executor.settle_own(chain)
        stop = start + len(out) // itemsize
        grid = self._executor.grid(chain)
        width = row_width(chain.site)  # whole rows are merged also where parts of them are asked for
        for first, last in pieces(-(-stop // width) * width, grid, start // width * width):
            self._merge(chain, first, last, start, out, itemsize)

    def show(self, names: Iterable[str], look: Callable[[str, int, Tensor, Tensor], None]) -> None:
        """Shows merged tensors as they reach their combine, slice by slice.

        Args:
            names: which.
            look: hears name, first element, the base's elements and the models' deltas, (elements) and (n, elements).

        Raises:
            CheckpointError: when an input cannot be read.
        """
        self._settle()
        chains = [self._chains[name] for name in names]
        for chain in chains:
            self._executor.settle_own(chain)
        room = Room()

        def show(chain: Chain, rows: Rows) -> None:
            look(chain.part.name, rows.start, *chain.reached(rows, room))

        with one_thread():
            self._executor.show(chains, show)

    def _merge(self, chain: Chain, first: int, last: int, start: int, out: Buffer, itemsize: int) -> None:
        """Merges elements first..last, and puts those of them into `out` that it takes from `start` on."""
        worker = self._worker()
        merged = worker.out((last - first) * itemsize)
        chain.combine(worker.load(chain, first, last), merged, chain.site.spec.dtype.name)
        begin, end = max(first, start), min(last, start + len(out) // itemsize)
        part = merged[(begin - first) * itemsize : (end - first) * itemsize]
        out[(begin - start) * itemsize : (end - start) * itemsize] = part

    def _settle(self) -> None:
        with self._lock:
            if not self._settled:
                check_buffers(self.plan)
                self._executor.settle(list(self._chains.values()))
                self._settled = True

    def _worker(self) -> Worker:
        if not hasattr(self._own, "worker"):
            self._own.worker = Worker(self.plan.inputs)
        worker: Worker = self._own.worker
        return worker

    def _whole(self, chain: Chain, itemsize: int) -> Buffer:
        """Merges a tensor that must be whole; kept per thread until another is asked for, since slices follow."""
        if getattr(self._own, "whole_name", None) != chain.part.name:
            with self._lock:
                self._executor.settle_own(chain)
            out = np.empty(chain.part.numel * itemsize, np.uint8)
            rows = self._worker().load(chain, 0, chain.part.numel)
            chain.combine(rows, out, chain.site.spec.dtype.name)
            self._own.whole_name, self._own.whole = chain.part.name, out
        whole: Buffer = self._own.whole
        return whole

    def _copy(self, copied: Copied, start: int, out: Buffer) -> None:
        source = self.plan.inputs[copied.feed.source].source
        if copied.spec.dtype != copied.feed.dtype:
            source = Cast(source, copied.spec.dtype)
        source.read_into(copied.feed.name, start, out)

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Passes the hint on to the inner inputs."""
        if name in self._chains:
            self._worker().will_need(self._chains[name].site, start, stop)

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to make the whole tensor once."""
        feeds = self._chains[name].site.feeds if name in self._chains else (self._copied[name].feed,)
        inputs = self.plan.inputs
        return sum(inputs[feed.source].source.read_cost(feed.name) for feed in feeds if not feed.zero)

    def fingerprint(self) -> str:
        """The inner job's digest, which covers its recipe and inputs."""
        return self.plan.job

    def check_unchanged(self) -> None:
        """Checks that no inner input changed since it was opened.

        Raises:
            CheckpointError: when one did.
        """
        for checkpoint in self.plan.inputs:
            checkpoint.source.check_unchanged()

    def close(self) -> None:
        """Closes the inner inputs."""
        for checkpoint in self.plan.inputs:
            checkpoint.source.close()


def staged(plan: Plan, reference: str) -> Checkpoint:
    """Opens a plan's output as a checkpoint, with the config and files of its donor."""
    donor = plan.inputs[0]
    folder: Path | None = donor.folder
    hub = tuple(each for checkpoint in plan.inputs for each in checkpoint.hub)
    return Checkpoint(reference, Staged(plan, reference), folder, donor.config, hub=hub)


class _Nowhere:
    """The sink of statistics only: nothing is stored or written."""

    def missing(self, name: str, numel: int) -> Iterator[tuple[int, int]]:
        """Yields the whole tensor."""
        yield 0, numel

    def phase(self, site: Merged, start: int) -> int:
        """Asks for nothing: no file is written."""
        return 0

    def write(self, site: Merged, start: int, stop: int, data: Buffer, bad: int, extras: Sequence[Buffer]) -> None:
        """Is never called: sites are merged by whoever reads them."""
        raise AssertionError(site.spec.name)

    def result(self, key: str) -> Any:
        """Returns None: nothing is stored."""
        return None

    def found(self, key: str, value: Any) -> None:
        """Stores nothing."""

    def progress(self, nbytes: int, doing: str) -> None:
        """Counts nothing; the outer run does."""
