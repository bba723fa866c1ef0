"""A lazy source in another float type, each value rounded once as it is read."""

from collections.abc import Mapping

import numpy as np

from eutectic.checkpoint.ranges import elements, find, first_byte
from eutectic.checkpoint.rounding import convert
from eutectic.checkpoint.source import Buffer, Source
from eutectic.checkpoint.spec import DType, TensorSpec
from eutectic.checkpoint.views import digest_of
from eutectic.errors import CheckpointError

#: Elements a cast holds at once.
_BLOCK = 2**16


class Cast:
    """A source whose float tensors are shown in another float type, rounded once, to nearest even.

    Integers, booleans and codes that need scales are shown as they are.

    Args:
        source: what is read.
        dtype: F64, F32, F16 or BF16.

    Raises:
        CheckpointError: when the type is none of those.
    """

    def __init__(self, source: Source, dtype: DType) -> None:
        if not dtype.mergeable:
            raise CheckpointError(f"{source.name}: expected a cast to F64, F32, F16 or BF16, found {dtype}")
        self.source = source
        self.dtype = dtype
        self._header = {
            name: TensorSpec(name, spec.shape, dtype if spec.dtype.mergeable else spec.dtype)
            for name, spec in source.header.items()
        }

    @property
    def name(self) -> str:
        """The source's name and the type."""
        return f"{self.source.name} (as {self.dtype})"

    @property
    def header(self) -> Mapping[str, TensorSpec]:
        """Every tensor by name, in the source's order."""
        return self._header

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with the bytes of elements `start, start + 1, ...` of tensor `name`.

        Raises:
            CheckpointError: when the source cannot be read.
        """
        spec = find(self._header, name, self.name)
        inner = self.source.header[name].dtype
        if inner == spec.dtype:
            self.source.read_into(name, start, out)
            return
        first_byte(spec, start, out.size)
        count, wide, narrow = elements(spec, out.size), spec.dtype.bits // 8, inner.bits // 8
        scratch = np.empty(min(count, _BLOCK) * narrow, np.uint8)
        for first in range(0, count, _BLOCK):
            size = min(_BLOCK, count - first)
            part = scratch[: size * narrow]
            self.source.read_into(name, start + first, part)
            out[first * wide : (first + size) * wide] = convert(part, inner, spec.dtype)

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Tells the operating system that elements `start..stop` of tensor `name` are read soon."""
        self.source.will_need(name, start, stop)

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to produce the whole tensor once: those of the source."""
        return self.source.read_cost(name)

    def fingerprint(self) -> str:
        """A digest of the source's fingerprint and the type.

        Raises:
            CheckpointError: when the source cannot be read.
        """
        return digest_of("cast", str(self.dtype), self.source.fingerprint())

    def check_unchanged(self) -> None:
        """Checks that the source did not change since it was opened.

        Raises:
            CheckpointError: when it did.
        """
        self.source.check_unchanged()

    def close(self) -> None:
        """Closes the source."""
        self.source.close()
