"""An adapter evaluated: any range of elements of the tensors it edits, or of the differences it makes."""

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from eutectic.adapters.config import LoraConfig
from eutectic.adapters.edits import Edit
from eutectic.adapters.oft import OftConfig, Turn, blocks_of
from eutectic.adapters.stored import FactorStore, Wide, read_small, read_wide
from eutectic.checkpoint.source import Source
from eutectic.errors import CheckpointError, MismatchError
from eutectic.numerics.lowrank import add_squares
from eutectic.numerics.turned import turned_into

#: Elements computed at once: the work arrays of a read stay within a few MiB.
CHUNK = 65536


class Adapter:
    """An adapter's edits, evaluated on element ranges; safe from many threads.

    Each element is computed by the same operations in the same order whatever range it is asked in.

    Args:
        file: the adapter's weights.
        config: its configuration.
        edits: what it does to each tensor.
        base: the tensors it edits; None when no edit needs them.
    """

    def __init__(
        self, file: Source, config: LoraConfig | OftConfig, edits: Mapping[str, Edit], base: Source | None
    ) -> None:
        self.file = file
        self.config = config
        self.edits = edits
        self._base = base
        self._factors = FactorStore(file)
        self._rescale: dict[str, Wide] = {}
        self._blocks: OrderedDict[Turn, NDArray[np.float64]] = OrderedDict()
        self._limit = 16 << 20
        self._lock = threading.Lock()

    def keep(self, limit: int) -> None:
        """Sets how many bytes of factors stay in memory between reads; those of one module do whatever their size."""
        self._factors, self._limit = FactorStore(self.file, limit), limit

    def work_dtype(self, edit: Edit) -> np.dtype[np.float32] | np.dtype[np.float64]:
        """Returns float64 for an edit of float64 values, else float32."""
        source, name = (self.file, edit.full) if edit.full is not None else (self._base, edit.name)
        double = source is not None and source.header[name].dtype.name == "F64"
        return np.dtype(np.float64) if double else np.dtype(np.float32)

    def weights(self, edit: Edit, start: int, out: Wide) -> None:
        """Fills `out` (in the work dtype) with elements `start, ...` of the edited tensor."""
        if edit.turn is not None:
            self._turn(edit, edit.turn, start, out)
            return
        out[:] = self._edited(edit, start, out.size)
        self._add_update(edit, start, out)
        if edit.magnitude is not None:
            columns = edit.shape[-1] if edit.by_column else int(np.prod(edit.shape[1:], dtype=np.int64))
            index = np.arange(start, start + out.size, dtype=np.int64)
            out *= self._rescaling(edit)[index % columns if edit.by_column else index // columns]

    def deltas(self, edit: Edit, start: int, out: Wide) -> None:
        """Fills `out` (in the work dtype) with elements `start, ...` of the edited tensor minus the base's."""
        if edit.magnitude is not None or edit.turn is not None:
            self.weights(edit, start, out)
            out -= self._original(edit, start, out.size)
            return
        out[:] = 0
        if edit.full is not None:  # subtracted first: a stored copy of the base then leaves the bare update
            np.subtract(self._edited(edit, start, out.size), self._original(edit, start, out.size), out=out)
        self._add_update(edit, start, out)

    def fingerprint(self) -> bytes:
        """Returns what changes whenever the adapter's file or configuration may have changed."""
        return json.dumps([self.file.fingerprint(), self.config.raw], sort_keys=True).encode()

    def read_cost(self, edit: Edit) -> int:
        """Returns the bytes of the adapter's file that an edit reads."""
        keys = [edit.full, edit.magnitude, edit.shift and edit.shift[0]]
        keys += [edit.pair.a, edit.pair.b] if edit.pair else []
        keys += [edit.turn.key] if edit.turn else []
        return sum(self.file.read_cost(key) for key in keys if key is not None)

    def check_copy(self, edit: Edit) -> None:
        """Checks that what is stored in a tensor's place is what the base has there.

        Raises:
            CheckpointError: when either cannot be read.
            MismatchError: when they differ.
        """
        for start in range(0, math.prod(edit.shape), CHUNK):
            count = min(CHUNK, math.prod(edit.shape) - start)
            here, there = self._edited(edit, start, count), self._original(edit, start, count)
            if not np.array_equal(here, there):
                at = start + int(np.flatnonzero(here != there)[0])
                raise MismatchError(
                    f"{self.file.name}: '{edit.full}' is not the base's '{edit.name}' (element {at} is the first that "
                    "differs), and an adapter of rotations alone would lose the change; merge to a model (output: "
                    "{form: model}), or leave it out (output: rest: drop)"
                )

    def checked_cost(self, edit: Edit) -> int:
        """Returns the bytes read by taking an edit's rotations after `check_copy`."""
        base = self._base.read_cost(edit.name) if self._base is not None and edit.full is not None else 0
        return self.read_cost(edit) + base

    def _original(self, edit: Edit, start: int, count: int) -> Wide:
        if self._base is None:
            raise CheckpointError(
                f"{self.file.name}: the change of '{edit.name}' depends on the base; give the base too"
            )
        return read_wide(self._base, edit.name, start, count)

    def _edited(self, edit: Edit, start: int, count: int) -> Wide:
        """Returns what the update is added to: the base's values, or those stored in the adapter in their place."""
        if edit.full is None:
            return self._original(edit, start, count)
        return read_wide(self.file, edit.full, start, count)

    def _add_update(self, edit: Edit, start: int, out: Wide) -> None:
        if edit.pair is not None:
            update = np.empty(out.size, np.float32)
            self._factors.get(edit.pair).into(start, update)
            out += update
        if edit.shift is not None:
            key, scale = edit.shift
            out += read_small(self.file, key).reshape(-1)[start : start + out.size] * np.float32(scale)

    def _turn(self, edit: Edit, turn: Turn, start: int, out: Wide) -> None:
        """Multiplies rows, each whole, with the rotations."""
        width = edit.shape[1]
        first, last = start // width, -(-(start + out.size) // width)
        rows = self._edited(edit, first * width, (last - first) * width).reshape(-1, width)
        turned_into(rows.astype(out.dtype, copy=False), self._blocks_of(turn), start - first * width, out)

    def _blocks_of(self, turn: Turn) -> NDArray[np.float64]:
        """Returns a module's rotations, made on first use; the latest are kept."""
        with self._lock:
            if turn not in self._blocks:
                self._blocks[turn] = blocks_of(self.file, turn)
            self._blocks.move_to_end(turn)
            while len(self._blocks) > 1 and sum(each.nbytes for each in self._blocks.values()) > self._limit:
                self._blocks.popitem(last=False)
            return self._blocks[turn]

    def _rescaling(self, edit: Edit) -> Wide:
        """Returns DoRA's magnitude over length of every output, from one pass over the tensor on first use."""
        with self._lock:
            if edit.name not in self._rescale:
                self._rescale[edit.name] = self._measure(edit)
            return self._rescale[edit.name]

    def _measure(self, edit: Edit) -> Wide:
        magnitudes = read_small(self.file, str(edit.magnitude)).reshape(-1)
        numel = int(np.prod(edit.shape, dtype=np.int64))
        sums = np.zeros(magnitudes.size, np.float64)
        work, plain = np.empty(min(numel, CHUNK), self.work_dtype(edit)), replace(edit, magnitude=None)
        for start in range(0, numel, CHUNK):
            part = work[: min(CHUNK, numel - start)]
            self.weights(plain, start, part)
            add_squares(part, start, numel // edit.shape[0], edit.by_column, sums)
        if not np.all(sums > 0):
            output = int(np.flatnonzero(~(sums > 0))[0])
            raise CheckpointError(
                f"{self.file.name}: output {output} of '{edit.name}' has no direction (its weights are zero or NaN), "
                "so DoRA cannot rescale it"
            )
        rescaling: Wide = (magnitudes / np.sqrt(sums)).astype(work.dtype)
        return rescaling
