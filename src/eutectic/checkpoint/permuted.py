"""A lazy source with rows in another order: what an alignment of hidden units does to the rows of a weight."""

import hashlib
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from eutectic.checkpoint.ranges import elements, find, first_byte
from eutectic.checkpoint.source import Buffer, Source
from eutectic.checkpoint.spec import TensorSpec
from eutectic.checkpoint.views import digest_of
from eutectic.errors import CheckpointError


class Permuted:
    """A source with the rows (axis 0) of some tensors in another order.

    Args:
        source: what is read.
        orders: for each tensor, which row of the source stands at each place, shape (rows,); rows may repeat or be
            left out.

    Raises:
        CheckpointError: when a tensor or a row does not exist, or rows do not begin at whole bytes.
    """

    def __init__(self, source: Source, orders: Mapping[str, NDArray[np.int64]]) -> None:
        self.source = source
        self.orders = {name: np.asarray(order, np.int64) for name, order in orders.items()}
        self._header = dict(source.header)
        for name, order in self.orders.items():
            spec = find(source.header, name, source.name)
            if not spec.shape or order.ndim != 1 or ((order < 0) | (order >= spec.shape[0])).any():
                raise CheckpointError(f"{self.name}: the order for '{name}' names rows outside of {list(spec.shape)}")
            if math.prod(spec.shape[1:]) * spec.dtype.bits % 8:
                raise CheckpointError(f"{self.name}: rows of '{name}' ({spec.dtype}) do not begin at whole bytes")
            self._header[name] = TensorSpec(name, (len(order), *spec.shape[1:]), spec.dtype)

    @property
    def name(self) -> str:
        """The source's name and what is done to it."""
        return f"{self.source.name} (permuted)"

    @property
    def header(self) -> Mapping[str, TensorSpec]:
        """Every tensor by name, in the source's order."""
        return self._header

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with the bytes of elements `start, start + 1, ...` of tensor `name`.

        Raises:
            CheckpointError: when the source cannot be read.
        """
        if name not in self.orders:
            self.source.read_into(name, start, out)
            return
        spec = find(self._header, name, self.name)
        first_byte(spec, start, out.size)
        row, order = math.prod(spec.shape[1:]), self.orders[name]
        at, stop, done = start, start + elements(spec, out.size), 0
        while at < stop:
            place, within = divmod(at, row)
            count = 1  # rows that follow each other in the source too are read at once
            while at - within + count * row < stop and order[place + count] == order[place] + count:
                count += 1
            end = min(stop, at - within + count * row)
            size = (end - at) * spec.dtype.bits // 8
            self.source.read_into(name, int(order[place]) * row + within, out[done : done + size])
            at, done = end, done + size

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Tells the operating system about a tensor in its own order; rows that are scattered are left to chance."""
        if name not in self.orders:
            self.source.will_need(name, start, stop)

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to produce the whole tensor once: as many as it shows."""
        if name not in self.orders:
            return self.source.read_cost(name)
        shown, inner = self._header[name].numel, self.source.header[name].numel
        return math.ceil(self.source.read_cost(name) * shown / inner) if inner else 0

    def fingerprint(self) -> str:
        """A digest of the source's fingerprint and of the orders.

        Raises:
            CheckpointError: when the source cannot be read.
        """
        orders = [f"{name} {hashlib.sha256(order.tobytes()).hexdigest()}" for name, order in self.orders.items()]
        return digest_of("permuted", *orders, self.source.fingerprint())

    def check_unchanged(self) -> None:
        """Checks that the source did not change since it was opened.

        Raises:
            CheckpointError: when it did.
        """
        self.source.check_unchanged()

    def close(self) -> None:
        """Closes the source."""
        self.source.close()
