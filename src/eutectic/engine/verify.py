"""Checks an output against its recipe: merges sampled or all tensors again and compares every byte."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eutectic.checkpoint.cast import Cast
from eutectic.checkpoint.source import Buffer, Source
from eutectic.checkpoint.tasks import Task, place_name
from eutectic.engine.execute import Executor
from eutectic.engine.extras import places
from eutectic.engine.run import chains_of, check_buffers
from eutectic.errors import CheckpointError
from eutectic.numerics.tensors import one_thread
from eutectic.plan.steps import Copied, Merged, Plan


@dataclass(frozen=True)
class Verification:
    """What a check found.

    Attributes:
        checked: names of the tensors that were made again.
        differing: bytes that differ, by tensor; empty when the output is what its recipe says.
        changed: references of inputs that are not what they were when the output was made.
    """

    checked: tuple[str, ...]
    differing: dict[str, int]
    changed: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every checked byte is right."""
        return not self.differing


def verify(plan: Plan, output: Source, sample: int | None, tasks: Sequence[Task] = ()) -> Verification:
    """Makes tensors again by the plan and compares them, and what was made for each task of them, with an output.

    Args:
        plan: the output's own recipe, planned again.
        output: the weights to check.
        tasks: the files of its tasks.
        sample: how many tensors, spread evenly over the output; all if None.

    Raises:
        CheckpointError: when names, shapes or types of the output are not those the recipe makes.
    """
    specs = {site.spec.name: site.spec for site in plan.merged} | {each.spec.name: each.spec for each in plan.copied}
    names = [name for shard in plan.layout.shards for name in shard.offsets]
    for name in sorted({*names, *output.header}):
        if specs.get(name) != output.header.get(name):
            raise CheckpointError(
                f"{output.name}: tensor '{name}' is {_say(output.header.get(name))}; its recipe makes "
                f"{_say(specs.get(name))}"
            )
    _check_tasks(plan, tasks)
    step = 1 if sample is None else max(1, len(names) // max(1, sample))
    chosen = set(names[::step])
    check_buffers(plan)
    sink = _Comparison(plan, chosen, output, tasks)
    chains = chains_of(plan)
    with one_thread():
        Executor(plan.inputs, plan.schedule, sink).run(chains)
    for each in plan.copied:
        if each.spec.name in chosen:
            _compare_copy(plan, each, sink)
    return Verification(tuple(name for name in names if name in chosen), sink.differing)


def _check_tasks(plan: Plan, tasks: Sequence[Task]) -> None:
    """Checks that there is a file for each task, with the tensors that the recipe makes."""
    if len(tasks) != len(plan.tasks.shards):
        raise CheckpointError(f"expected the files of {len(plan.tasks.shards)} tasks, found {len(tasks)}")
    for number, (task, shard) in enumerate(zip(tasks, plan.tasks.shards, strict=True)):
        found = {place_name(number, name): spec.nbytes for name, spec in task.file.header.items()}
        differing = sorted(name for name in {*found, *shard.sizes} if found.get(name) != shard.sizes.get(name))
        if differing:
            raise CheckpointError(f"{task.file.path}: tensor '{differing[0]}' is not what its recipe makes")


def _say(spec: Any) -> str:
    return "absent" if spec is None else f"{spec.dtype} {list(spec.shape)}"


def _compare_copy(plan: Plan, each: Copied, sink: "_Comparison") -> None:
    source = plan.inputs[each.feed.source].source
    if each.spec.dtype != each.feed.dtype:
        source = Cast(source, each.spec.dtype)
    step = 1 << 22
    for start in range(0, max(1, each.spec.numel), step):
        stop = min(each.spec.numel, start + step)
        data = np.empty((stop - start) * each.spec.dtype.bits // 8, np.uint8)
        source.read_into(each.feed.name, start, data)
        sink.compare(each.spec.name, start, data)


class _Comparison:
    """A sink that compares instead of writing."""

    def __init__(self, plan: Plan, chosen: set[str], output: Source, tasks: Sequence[Task]) -> None:
        self._plan, self._chosen, self._output = plan, chosen, output
        self._tasks = {
            place_name(n, name): (task.file, name) for n, task in enumerate(tasks) for name in task.file.header
        }
        self._lock = threading.Lock()
        self.differing: dict[str, int] = {}

    def missing(self, name: str, numel: int) -> Iterator[tuple[int, int]]:
        """Yields the whole of a chosen tensor."""
        if name in self._chosen:
            yield 0, numel

    def phase(self, site: Merged, start: int) -> int:
        """Asks for nothing: no file is written."""
        return 0

    def write(self, site: Merged, start: int, stop: int, data: Buffer, bad: int, extras: Sequence[Buffer]) -> None:
        """Compares merged bytes with the output's."""
        self.compare(site.spec.name, start, data)
        for place, first, part in places(site, self._plan.has_base, start, extras):
            file, name = self._tasks[place]
            self._count(place, file, name, first * 8 // file.header[name].dtype.bits, part)

    def compare(self, name: str, start: int, data: Buffer) -> None:
        """Counts the bytes that differ from the output's."""
        self._count(name, self._output, name, start, data)

    def _count(self, called: str, source: Source, name: str, start: int, data: Buffer) -> None:
        there = np.empty(len(data), np.uint8)
        source.read_into(name, start, there)
        wrong = int((there != data).sum())
        if wrong:
            with self._lock:
                self.differing[called] = self.differing.get(called, 0) + wrong

    def result(self, key: str) -> Any:
        """Returns None: everything is computed again."""
        return None

    def found(self, key: str, value: Any) -> None:
        """Stores nothing."""

    def progress(self, nbytes: int, doing: str) -> None:
        """Counts nothing."""
