"""The model of one task as a source: made from the base, the merged model and the task's extras as it is read."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eutectic.checkpoint.cast import Cast
from eutectic.checkpoint.ranges import elements, find, first_byte
from eutectic.checkpoint.sidecars import RECEIPT
from eutectic.checkpoint.source import Buffer, Checkpoint, Source
from eutectic.checkpoint.spec import DTYPES, DType, TensorSpec
from eutectic.checkpoint.tasks import Task, check_same_merge, find_task, open_task_file
from eutectic.checkpoint.views import digest_of
from eutectic.errors import CheckpointError, MismatchError
from eutectic.methods import get
from eutectic.methods.declare import Method
from eutectic.methods.extras import BIT, Extra
from eutectic.numerics.precision import round_to
from eutectic.numerics.tensors import Tensor, load, torch

#: Elements that one thread makes at once.
_BLOCK = 1 << 16


class TaskModel:
    """A source of one task's tensors, in the merged model's types, each rounded once.

    Tensors for which nothing was made are the merged model's. Where every extra has an element for each of the
    tensor's, or is a number, a range of a tensor is made from that range; else the tensor is made whole, and kept until
    another is asked for.

    Args:
        base: what the merge was made around.
        merged: the merged model.
        task: the task's extras.

    Raises:
        MismatchError: when the three do not fit together.
        RecipeError: when a method that made extras is not known here.
    """

    def __init__(self, base: Source, merged: Source, task: Task) -> None:
        load()
        self._base, self._merged, self._task = base, merged, task
        self._methods = {name: get(name) for name in {method for method, _ in task.made.values()}}
        self._own = threading.local()
        for tensor in task.made:
            self._check(tensor)

    def _check(self, tensor: str) -> None:
        """Checks that a tensor is in base and merged model, and its extras are those its method declares."""
        merged, base = self._merged.header.get(tensor), self._base.header.get(tensor)
        if merged is None or base is None or base.numel < merged.numel:
            where = self._merged.name if merged is None else self._base.name
            raise MismatchError(f"{where}: has no tensor {tensor!a:.200} that fits the parts of task {self._task.name}")
        kind, made = self._task.made[tensor]
        method = self._methods[kind]
        header = self._task.file.header
        for extra in method.extras:
            spec = header[made[extra.name]] if extra.name in made else None
            fits = spec is not None and spec.dtype.name == ("U8" if extra.dtype == BIT else extra.dtype)
            if extra.elementwise and fits and spec is not None:
                fits = spec.shape == extra.stored(merged.shape, 1)
            if not fits and (extra.elementwise or spec is not None):
                raise MismatchError(f"{self._task.file.path}: {tensor!a:.200} has no {kind}.{extra.name} of its size")
        if method.specialise is None:
            raise MismatchError(f"{self._task.file.path}: {kind} makes nothing for single tasks in this version")

    @property
    def name(self) -> str:
        """The merged model and the task."""
        return f"{self._merged.name}#{self._task.name}"

    @property
    def header(self) -> Mapping[str, TensorSpec]:
        """Every tensor by name: the merged model's."""
        return self._merged.header

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with the bytes of elements `start, start + 1, ...` of tensor `name`.

        Raises:
            CheckpointError: when a file cannot be read.
        """
        spec = find(self.header, name, self.name)
        if name not in self._task.made:
            self._merged.read_into(name, start, out)
            return
        first_byte(spec, start, out.size)
        count, width = elements(spec, out.size), spec.dtype.bits // 8
        if not self._sliced(name):
            out[:] = self._whole(spec)[start * width : (start + count) * width]
            return
        for first in range(0, count, _BLOCK):
            size = min(_BLOCK, count - first)
            self._make(spec, start + first, size, (size,), out[first * width : (first + size) * width])

    def _declared(self, name: str) -> tuple[Method[Any], list[tuple[Extra, str]]]:
        """The method that made a tensor's extras, and those that are there, with their names in the file."""
        kind, made = self._task.made[name]
        method = self._methods[kind]
        return method, [(extra, made[extra.name]) for extra in method.extras if extra.name in made]

    def _sliced(self, name: str) -> bool:
        header = self._task.file.header
        return all(extra.elementwise or header[own].numel == 1 for extra, own in self._declared(name)[1])

    def _whole(self, spec: TensorSpec) -> Buffer:
        if getattr(self._own, "name", None) != spec.name:
            self._own.made = None  # freed before the next is made
            made = np.empty(spec.nbytes, np.uint8)
            self._make(spec, 0, spec.numel, spec.shape, made)
            self._own.name, self._own.made = spec.name, made
        whole: Buffer = self._own.made
        return whole

    def _make(self, spec: TensorSpec, start: int, count: int, shape: tuple[int, ...], out: Buffer) -> None:
        """Makes elements start..start + count of the task's tensor."""
        work = DTYPES["F64" if spec.dtype.name == "F64" else "F32"]
        base, merged = (
            _floats(source, spec.name, start, count, work).reshape(shape) for source in (self._base, self._merged)
        )
        method, extras = self._declared(spec.name)
        given = {extra.name: self._extra(extra, own, start, count, shape, work) for extra, own in extras}
        assert method.specialise is not None  # checked on opening
        round_to(method.specialise(base, merged, given), spec.dtype.name, out)

    def _extra(self, extra: Extra, name: str, start: int, count: int, shape: tuple[int, ...], work: DType) -> Tensor:
        file = self._task.file
        if not extra.elementwise:
            own = file.header[name]
            return _floats(file, name, 0, own.numel, work).reshape(own.shape)
        if extra.dtype != BIT:
            return _floats(file, name, start, count, work).reshape(shape)
        first = start // 8
        raw = np.empty((start + count + 7) // 8 - first, np.uint8)
        file.read_into(name, first, raw)
        bits = np.unpackbits(raw, bitorder="little")[start - 8 * first :][:count]
        return torch.from_numpy(bits.astype(np.bool_)).reshape(shape)

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Tells the operating system what is read soon."""
        self._merged.will_need(name, start, stop)
        if name in self._task.made:
            self._base.will_need(name, start, stop)

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to produce the whole tensor once: merged, and with extras the base's and theirs."""
        cost = self._merged.read_cost(name)
        if name in self._task.made:
            cost += self._base.read_cost(name)
            cost += sum(self._task.file.read_cost(own) for _, own in self._declared(name)[1])
        return cost

    def fingerprint(self) -> str:
        """A digest of the three parts' fingerprints.

        Raises:
            CheckpointError: when a file cannot be read.
        """
        parts = (self._base.fingerprint(), self._merged.fingerprint(), self._task.file.fingerprint())
        return digest_of("task", *parts)

    def check_unchanged(self) -> None:
        """Checks that no file changed since it was opened.

        Raises:
            CheckpointError: when one did.
        """
        for part in (self._base, self._merged, self._task.file):
            part.check_unchanged()

    def close(self) -> None:
        """Closes the files."""
        for part in (self._base, self._merged, self._task.file):
            part.close()


def _floats(source: Source, name: str, start: int, count: int, work: DType) -> Tensor:
    """Reads elements of a tensor in work precision."""
    raw = np.empty(count * work.bits // 8, np.uint8)
    Cast(source, work).read_into(name, start, raw)
    return torch.from_numpy(raw.view(np.float64 if work.bits == 64 else np.float32))


def open_task(merged: Checkpoint, base: Checkpoint, task: str, *, checked: bool) -> Checkpoint:
    """Opens the model of one task of an output.

    Args:
        merged: the output.
        base: what it was made around.
        task: the task's name.
        checked: the base must be what it was when the merge was made.

    Raises:
        CheckpointError: when a file is broken, changed since the merge, or of another merge.
        MismatchError: when the parts do not fit together.
        RecipeError: when there is no such task.
    """
    folder = merged.folder or Path(merged.reference)
    found = open_task_file(find_task(folder, task))
    try:
        check_same_merge(found, folder)
        if checked and base.source.fingerprint() != _receipt(merged)[1]:
            raise CheckpointError(
                f"{base.reference}: changed since {merged.reference} was merged around it, or was copied; where it is "
                "the same all the same, name it as the task's base"
            )
        source = TaskModel(base.source, merged.source, found)
    except BaseException:
        found.close()
        raise
    reference = f"{merged.reference}#{found.name}"
    return Checkpoint(reference, source, merged.folder, merged.config, merged.revision, hub=(*merged.hub, *base.hub))


def base_of(merged: Checkpoint) -> str:
    """Returns what an output's receipt calls the base it was made around.

    Raises:
        CheckpointError: when it has no receipt with a base.
    """
    return _receipt(merged)[0]


def _receipt(merged: Checkpoint) -> tuple[str, str]:
    """The base's reference and fingerprint when the output was made."""
    path = None if merged.folder is None else merged.folder / RECEIPT
    try:
        inputs = json.loads(path.read_text(encoding="utf-8"))["inputs"] if path is not None else []
        return next((str(each["reference"]), str(each["fingerprint"])) for each in inputs if each["role"] == "base")
    except (OSError, ValueError, TypeError, KeyError, StopIteration) as error:
        raise CheckpointError(
            f"{path or merged.reference}: expected the receipt of a merge around a base, found none; name the task's "
            "base"
        ) from error
