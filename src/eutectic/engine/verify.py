"""Checks an output against its recipe: merges sampled or all tensors again and compares every byte."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from eutectic.checkpoint.cast import Cast
from eutectic.checkpoint.source import Buffer, Source
from eutectic.engine.execute import Executor
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


def verify(plan: Plan, output: Source, sample: int | None) -> Verification:
    """Makes tensors again by the plan and compares them with an output.

    Args:
        plan: the output's own recipe, planned again.
        output: the weights to check.
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
    step = 1 if sample is None else max(1, len(names) // max(1, sample))
    chosen = set(names[::step])
    check_buffers(plan)
    sink = _Comparison(chosen, output)
    chains = chains_of(plan)
    with one_thread():
        Executor(plan.inputs, plan.schedule, sink).run(chains)
    for each in plan.copied:
        if each.spec.name in chosen:
            _compare_copy(plan, each, sink)
    return Verification(tuple(name for name in names if name in chosen), sink.differing)


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

    def __init__(self, chosen: set[str], output: Source) -> None:
        self._chosen, self._output = chosen, output
        self.differing: dict[str, int] = {}

    def missing(self, name: str, numel: int) -> Iterator[tuple[int, int]]:
        """Yields the whole of a chosen tensor."""
        if name in self._chosen:
            yield 0, numel

    def write(self, site: Merged, start: int, stop: int, data: Buffer, bad: int) -> None:
        """Compares merged bytes with the output's."""
        self.compare(site.spec.name, start, data)

    def compare(self, name: str, start: int, data: Buffer) -> None:
        """Counts the bytes that differ from the output's."""
        there = np.empty(len(data), np.uint8)
        self._output.read_into(name, start, there)
        wrong = int((there != data).sum())
        if wrong:
            self.differing[name] = self.differing.get(name, 0) + wrong

    def result(self, key: str) -> Any:
        """Returns None: everything is computed again."""
        return None

    def found(self, key: str, value: Any) -> None:
        """Stores nothing."""

    def progress(self, nbytes: int, doing: str) -> None:
        """Counts nothing."""
