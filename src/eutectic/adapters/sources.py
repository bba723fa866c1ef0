"""Adapters as sources: the differences they make, or the whole model with them folded in."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from eutectic.adapters.adapter import CHUNK, Adapter
from eutectic.adapters.edits import Edit
from eutectic.adapters.stored import Wide
from eutectic.checkpoint.ranges import elements, find, first_byte
from eutectic.checkpoint.source import Buffer, Source
from eutectic.checkpoint.spec import DTYPES, TensorSpec

#: Bytes of factors that all adapters of a merge keep together; each keeps those of one module at least.
KEPT_FACTORS = 64 << 20


class DeltaSource:
    """A source of the differences an adapter makes, named as in the base.

    Tensors are float32; those whose difference needs a float64 base are float64.

    Args:
        adapter: the adapter.
        name: how messages call it.
        base: the base it was fitted to, if there is one; it stays open when this source is closed.
    """

    def __init__(self, adapter: Adapter, name: str, base: Source | None = None) -> None:
        self._adapter = adapter
        self.name = name
        self._base = base
        self.header = {edit.name: self._spec(edit) for edit in adapter.edits.values()}

    @property
    def adapter(self) -> Adapter:
        """The adapter, for methods that work on its factors."""
        return self._adapter

    @property
    def base_name(self) -> str | None:
        """The base the adapter was trained on, as its author called it; information only."""
        return self._adapter.config.base_name

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with the bytes of elements `start, start + 1, ...` of the difference of tensor `name`.

        Raises:
            CheckpointError: when a file cannot be read, or the adapter holds NaN or infinity.
        """
        spec = find(self.header, name, self.name)
        _fill(self._adapter.deltas, self._adapter.edits[name], spec, start, out)

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Passes the hint on to the base, where the difference needs it; factors are read whole and kept."""
        if self._base is not None and self._adapter.edits[name].needs_base:
            self._base.will_need(name, start, stop)

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to produce the whole tensor once: its factors, and the base where it is needed."""
        edit = self._adapter.edits[name]
        base = self._base.read_cost(name) if self._base is not None and edit.needs_base else 0
        return self._adapter.read_cost(edit) + base * (1 if edit.magnitude is None and edit.turn is None else 2)

    def fingerprint(self) -> str:
        """A digest of the adapter's file and configuration, and of the base where a difference needs it."""
        digest = hashlib.sha256(self._adapter.fingerprint())
        if self._base is not None and any(edit.needs_base for edit in self._adapter.edits.values()):
            digest.update(self._base.fingerprint().encode())
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Checks that neither the adapter's file nor a base its differences need changed since it was opened.

        Raises:
            CheckpointError: when one did.
        """
        self._adapter.file.check_unchanged()
        if self._base is not None:
            self._base.check_unchanged()

    def close(self) -> None:
        """Closes the adapter's file."""
        self._adapter.file.close()

    def _spec(self, edit: Edit) -> TensorSpec:
        double = edit.needs_base and self._base is not None and self._base.header[edit.name].dtype.name == "F64"
        return TensorSpec(edit.name, edit.shape, DTYPES["F64" if double else "F32"])


class FoldedSource:
    """A source of the whole model: the base with an adapter folded in.

    Tensors the adapter leaves alone pass through in their stored type, as do tensors the adapter stores in full. Edited
    ones are float32 (float64 where the base is): the base's values, widened, plus the update. Tensors of the
    adapter that the base lacks (a head of its own) come last.

    Args:
        adapter: the adapter, fitted to the base.
        name: how messages call it.
        base: the base; it is closed with this source.
    """

    def __init__(self, adapter: Adapter, name: str, base: Source) -> None:
        self._adapter = adapter
        self.name = name
        self._base = base
        self.header = dict(base.header) | {edit.name: self._spec(edit) for edit in adapter.edits.values()}

    @property
    def base_name(self) -> str | None:
        """The base the adapter was trained on, as its author called it; information only."""
        return self._adapter.config.base_name

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with the bytes of elements `start, start + 1, ...` of tensor `name`.

        Raises:
            CheckpointError: when a file cannot be read, or the adapter holds NaN or infinity.
        """
        edit = self._adapter.edits.get(name)
        if edit is None:
            self._base.read_into(name, start, out)
        elif _stored(edit):
            self._adapter.file.read_into(str(edit.full), start, out)
        else:
            _fill(self._adapter.weights, edit, find(self.header, name, self.name), start, out)

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Passes the hint on to the file that is read; factors are read whole and kept."""
        edit = self._adapter.edits.get(name)
        if edit is None or edit.full is None:
            self._base.will_need(name, start, stop)
        else:
            self._adapter.file.will_need(edit.full, start, stop)

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to produce the whole tensor once; DoRA measures its outputs in one pass more."""
        edit = self._adapter.edits.get(name)
        if edit is None:
            return self._base.read_cost(name)
        passes = 1 if edit.magnitude is None else 2
        return self._adapter.read_cost(edit) + (passes * self._base.read_cost(name) if edit.full is None else 0)

    def fingerprint(self) -> str:
        """A digest of the base, the adapter's file and its configuration."""
        digest = hashlib.sha256(self._adapter.fingerprint())
        digest.update(self._base.fingerprint().encode())
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Checks that neither the adapter's file nor the base changed since it was opened.

        Raises:
            CheckpointError: when one did.
        """
        self._adapter.file.check_unchanged()
        self._base.check_unchanged()

    def close(self) -> None:
        """Closes the adapter's file and the base."""
        self._adapter.file.close()
        self._base.close()

    def _spec(self, edit: Edit) -> TensorSpec:
        if _stored(edit):
            return TensorSpec(edit.name, edit.shape, self._adapter.file.header[str(edit.full)].dtype)
        double = self._adapter.work_dtype(edit) == np.float64
        return TensorSpec(edit.name, edit.shape, DTYPES["F64" if double else "F32"])


def share_memory(sources: Sequence[Source]) -> None:
    """Divides the memory for factors that are kept between reads among the adapters of one merge."""
    adapters = [source.adapter for source in sources if isinstance(source, DeltaSource)]
    for adapter in adapters:
        adapter.keep(KEPT_FACTORS // len(adapters))


def _stored(edit: Edit) -> bool:
    """Whether the edited tensor is what the adapter stores, byte for byte."""
    return edit.full is not None and edit.pair is None and edit.shift is None and edit.turn is None


def _fill(compute: Callable[[Edit, int, Wide], None], edit: Edit, spec: TensorSpec, start: int, out: Buffer) -> None:
    """Computes a range chunk by chunk into bytes, which may lie at any address."""
    first_byte(spec, start, out.size)
    count, size = elements(spec, out.size), spec.dtype.bits // 8
    work: Wide = np.empty(min(count, CHUNK), np.float64 if size == 8 else np.float32)
    for at in range(0, count, CHUNK):
        part = work[: min(CHUNK, count - at)]
        compute(edit, start + at, part)
        out[at * size : at * size + part.nbytes] = part.view(np.uint8)
