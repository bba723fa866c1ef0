"""Lazy sources over sources: tensors renamed, selected, cut into rows, split or stacked as they are read.

A view holds no data. A range of elements read through it is bit for bit that range of the tensor it shows. Closing a
view closes what it is over. All of them are one idea, a tensor as consecutive runs of elements of other tensors: along
axis 0 every rename, cut and stack is that.
"""

import hashlib
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from eutectic.checkpoint.ranges import elements, find, first_byte
from eutectic.checkpoint.source import Buffer, Source
from eutectic.checkpoint.spec import TensorSpec
from eutectic.errors import CheckpointError


@dataclass(frozen=True)
class Run:
    """Elements `start..stop` of the flattened tensor `name` of a view's source."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Shown:
    """One tensor of a view: what it is, and the runs it consists of, in order."""

    spec: TensorSpec
    runs: tuple[Run, ...]


class View:
    """A source whose tensors consist of runs of another source's tensors.

    Args:
        source: what is read.
        shown: every tensor of the view, in the order its header is to have.
        change: what the view does, for messages and fingerprints.
    """

    def __init__(self, source: Source, shown: Sequence[Shown], change: str) -> None:
        self.source = source
        self.change = change
        self._shown = {each.spec.name: each for each in shown}
        self._header = {each.spec.name: each.spec for each in shown}
        self._ends = {each.spec.name: list(accumulate(run.stop - run.start for run in each.runs)) for each in shown}
        if len(self._shown) != len(shown):
            raise CheckpointError(f"{self.name}: two tensors would have one name")
        for each in shown:
            _check_runs(each, source, self.name)

    @property
    def name(self) -> str:
        """The source's name and what is done to it."""
        return f"{self.source.name} ({self.change})"

    @property
    def header(self) -> Mapping[str, TensorSpec]:
        """Every tensor by name."""
        return self._header

    def _pieces(self, name: str, start: int, stop: int) -> list[Run]:
        """Returns the runs of the source that make up elements `start..stop` of tensor `name`."""
        find(self._header, name, self.name)
        ends, runs = self._ends[name], self._shown[name].runs
        pieces: list[Run] = []
        number = bisect_right(ends, start)
        while start < stop:
            run, end = runs[number], min(stop, ends[number])
            shift = run.stop - ends[number]  # from elements of the view to elements of the source
            if end > start:
                pieces.append(Run(run.name, start + shift, end + shift))
            start, number = end, number + 1
        return pieces

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with the bytes of elements `start, start + 1, ...` of tensor `name`.

        Raises:
            CheckpointError: when the source cannot be read.
        """
        spec = find(self._header, name, self.name)
        first_byte(spec, start, out.size)
        done = 0
        for piece in self._pieces(name, start, start + elements(spec, out.size)):
            size = (piece.stop - piece.start) * spec.dtype.bits // 8
            self.source.read_into(piece.name, piece.start, out[done : done + size])
            done += size

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Tells the operating system that elements `start..stop` of tensor `name` are read soon."""
        for piece in self._pieces(name, start, stop):
            self.source.will_need(piece.name, piece.start, piece.stop)

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to produce the whole tensor once: each run's share of its tensor's cost."""
        find(self._header, name, self.name)
        runs = [run for run in self._shown[name].runs if run.stop > run.start]
        return sum(
            math.ceil(self.source.read_cost(run.name) * (run.stop - run.start) / self.source.header[run.name].numel)
            for run in runs
        )

    def fingerprint(self) -> str:
        """A digest of the source's fingerprint and of what the view shows.

        Raises:
            CheckpointError: when the source cannot be read.
        """
        text = "\n".join(repr(each) for each in self._shown.values())
        return digest_of(self.change, text, self.source.fingerprint())

    def check_unchanged(self) -> None:
        """Checks that the source did not change since it was opened.

        Raises:
            CheckpointError: when it did.
        """
        self.source.check_unchanged()

    def close(self) -> None:
        """Closes the source."""
        self.source.close()


def digest_of(*parts: str) -> str:
    """Returns the digest of a few texts: what a view is over, and what it does."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _check_runs(shown: Shown, source: Source, where: str) -> None:
    """Checks that the runs exist, fit the tensor they make, and begin and end at whole bytes."""
    spec = shown.spec
    for run in shown.runs:
        inner = find(source.header, run.name, source.name)
        if inner.dtype != spec.dtype:
            raise CheckpointError(f"{where}: '{spec.name}' would mix {spec.dtype} with {inner.dtype} of '{run.name}'")
        if not 0 <= run.start <= run.stop <= inner.numel:
            raise CheckpointError(f"{where}: '{spec.name}' would reach outside of '{run.name}' {list(inner.shape)}")
        if run.start * spec.dtype.bits % 8 or run.stop * spec.dtype.bits % 8:
            raise CheckpointError(f"{where}: '{spec.name}' would cut '{run.name}' ({spec.dtype}) inside a byte")
    if sum(run.stop - run.start for run in shown.runs) != spec.numel:
        raise CheckpointError(f"{where}: '{spec.name}' would not have the elements of its shape {list(spec.shape)}")


def _whole(spec: TensorSpec) -> Shown:
    return Shown(spec, (Run(spec.name, 0, spec.numel),))


def _rows(spec: TensorSpec, name: str, start: int, stop: int, where: str) -> Shown:
    """Returns rows `start..stop` along axis 0 of a tensor, under a new name."""
    if not spec.shape or not 0 <= start <= stop <= spec.shape[0]:
        raise CheckpointError(f"{where}: '{spec.name}' {list(spec.shape)} has no rows {start} to {stop}")
    row = math.prod(spec.shape[1:])
    return Shown(
        TensorSpec(name, (stop - start, *spec.shape[1:]), spec.dtype), (Run(spec.name, start * row, stop * row),)
    )


def renamed(source: Source, names: Mapping[str, str]) -> Source:
    """Shows tensors under new names, `names` from old to new; the others keep theirs.

    Raises:
        CheckpointError: when there is no tensor of an old name, or two would have one name.
    """
    for old in names:
        find(source.header, old, source.name)
    shown = [
        Shown(TensorSpec(names.get(name, name), spec.shape, spec.dtype), (Run(name, 0, spec.numel),))
        for name, spec in source.header.items()
    ]
    return View(source, shown, "renamed")


def selected(source: Source, names: Sequence[str]) -> Source:
    """Shows only the named tensors, in the order given.

    Raises:
        CheckpointError: when there is no tensor of a name.
    """
    return View(source, [_whole(find(source.header, name, source.name)) for name in names], "selected")


def rows(source: Source, ranges: Mapping[str, tuple[int, int]]) -> Source:
    """Shows only rows `start..stop` along axis 0 of the named tensors; the others stay whole.

    Raises:
        CheckpointError: when a tensor or its rows do not exist.
    """
    for name in ranges:
        find(source.header, name, source.name)
    shown = [
        _rows(spec, name, *ranges[name], source.name) if name in ranges else _whole(spec)
        for name, spec in source.header.items()
    ]
    return View(source, shown, "rows")


def split(source: Source, parts: Mapping[str, Mapping[str, int]]) -> Source:
    """Shows each fused tensor as parts along axis 0: `parts` gives new names and their numbers of rows, in order.

    Raises:
        CheckpointError: when a tensor does not exist, or its parts do not add up to its rows.
    """
    for name in parts:
        find(source.header, name, source.name)
    shown: list[Shown] = []
    for name, spec in source.header.items():
        if name not in parts:
            shown.append(_whole(spec))
            continue
        if not spec.shape or sum(parts[name].values()) != spec.shape[0]:
            total = sum(parts[name].values())
            raise CheckpointError(f"{source.name}: '{name}' {list(spec.shape)} cannot be split into {total} rows")
        start = 0
        for part, count in parts[name].items():
            shown.append(_rows(spec, part, start, start + count, source.name))
            start += count
    return View(source, shown, "split")


def stacked(source: Source, parts: Mapping[str, Sequence[str]], *, new_axis: bool = False) -> Source:
    """Shows several tensors as one, joined along axis 0, or along a new first axis (experts into one tensor).

    `parts` gives for each new name the tensors it consists of; they are no longer shown by themselves. The new tensor
    stands where its first part stood.

    Raises:
        CheckpointError: when a part does not exist, or parts differ in type or in their other axes.
    """
    used = {part for names in parts.values() for part in names}
    first = {names[0]: new for new, names in parts.items() if names}
    for part in used:
        find(source.header, part, source.name)
    shown: list[Shown] = []
    for name, spec in source.header.items():
        if name in first:
            shown.append(_stack(source, first[name], parts[first[name]], new_axis))
        elif name not in used:
            shown.append(_whole(spec))
    return View(source, shown, "stacked")


def _stack(source: Source, new: str, names: Sequence[str], new_axis: bool) -> Shown:
    specs = [source.header[name] for name in names]
    rest = {spec.shape if new_axis else spec.shape[1:] for spec in specs}
    if len(rest) > 1 or (not new_axis and any(not spec.shape for spec in specs)):
        shapes = ", ".join(f"'{spec.name}' {list(spec.shape)}" for spec in specs)
        raise CheckpointError(f"{source.name}: '{new}' cannot be stacked from {shapes:.500}")
    length = len(specs) if new_axis else sum(spec.shape[0] for spec in specs)
    shape = (length, *rest.pop())
    return Shown(TensorSpec(new, shape, specs[0].dtype), tuple(Run(spec.name, 0, spec.numel) for spec in specs))
