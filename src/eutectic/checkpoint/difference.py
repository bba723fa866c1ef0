"""Sources of differences: a model minus its base, the zeros that differences are merged around, and sums of both."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from eutectic.checkpoint.cast import Cast
from eutectic.checkpoint.ranges import elements, find, first_byte
from eutectic.checkpoint.rounding import convert
from eutectic.checkpoint.source import Buffer, Source
from eutectic.checkpoint.spec import DTYPES, TensorSpec
from eutectic.checkpoint.views import digest_of
from eutectic.errors import MismatchError

#: Elements subtracted at once.
_BLOCK = 2**16


class Difference:
    """A source of what a model changed in its base: its float tensors minus the base's, by name.

    Both are widened to float32 (float64 where one of them is) and subtracted there. Tensors that are no floats, and
    those that only the base has, are not shown.

    Args:
        model: the model.
        base: the base; it stays the caller's to close.

    Raises:
        MismatchError: when the model has a tensor that the base lacks, or holds in another shape.
    """

    def __init__(self, model: Source, base: Source) -> None:
        self._model, self._base = model, base
        self._header: dict[str, TensorSpec] = {}
        for name, spec in model.header.items():
            other = base.header.get(name)
            if not spec.dtype.mergeable or (other is not None and not other.dtype.mergeable):
                continue
            if other is None or other.shape != spec.shape:
                found = "none" if other is None else f"shape {other.shape}"
                raise MismatchError(
                    f"{model.name}: '{name}' has shape {spec.shape}; expected the same in the base {base.name}, found "
                    f"{found}; take the base this model was trained from"
                )
            wide = "F64" if "F64" in (spec.dtype.name, other.dtype.name) else "F32"
            self._header[name] = TensorSpec(name, spec.shape, DTYPES[wide])
        kinds = {spec.dtype.name for spec in self._header.values()}
        self._cast = {kind: (Cast(model, DTYPES[kind]), Cast(base, DTYPES[kind])) for kind in kinds}

    @property
    def name(self) -> str:
        """The model's."""
        return self._model.name

    @property
    def header(self) -> Mapping[str, TensorSpec]:
        """The model's float tensors."""
        return self._header

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with the bytes of elements `start, start + 1, ...` of the difference of tensor `name`.

        Raises:
            CheckpointError: when a file cannot be read.
        """
        spec = find(self._header, name, self.name)
        first_byte(spec, start, out.size)
        kind, size = np.dtype("<f8" if spec.dtype.name == "F64" else "<f4"), spec.dtype.bits // 8
        model, base = self._cast[spec.dtype.name]
        count = elements(spec, out.size)
        raw = np.empty((2, min(count, _BLOCK) * size), np.uint8)
        for at in range(0, count, _BLOCK):
            length = min(_BLOCK, count - at) * size
            for source, row in zip((model, base), raw, strict=True):
                source.read_into(name, start + at, row[:length])
            first, second = (row[:length].view(kind) for row in raw)
            out[at * size : at * size + length] = (first - second).view(np.uint8)

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Passes the hint on to both."""
        for source in (self._model, self._base):
            source.will_need(name, start, stop)

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to produce the whole tensor once: both models'."""
        return self._model.read_cost(name) + self._base.read_cost(name)

    def fingerprint(self) -> str:
        """A digest of both."""
        return digest_of("difference", self._model.fingerprint(), self._base.fingerprint())

    def check_unchanged(self) -> None:
        """Checks that neither changed since it was opened.

        Raises:
            CheckpointError: when one did.
        """
        self._model.check_unchanged()
        self._base.check_unchanged()

    def close(self) -> None:
        """Closes the model."""
        self._model.close()


class Sum:
    """A source of some tensors of a base with differences added, each rounded once to the base's type.

    Args:
        base: the base.
        differences: what is added, float32 or float64.
        names: the tensors, by the name they are shown under.
    """

    def __init__(self, base: Source, differences: Source, names: Mapping[str, str]) -> None:
        self._base, self._differences, self._names = base, differences, names
        self._header = {key: replace(base.header[name], name=key) for key, name in names.items()}

    @property
    def name(self) -> str:
        """The base's."""
        return self._base.name

    @property
    def header(self) -> Mapping[str, TensorSpec]:
        """The tensors, by the names they are shown under."""
        return self._header

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with the bytes of elements `start, start + 1, ...` of a sum.

        Raises:
            CheckpointError: when a file cannot be read.
        """
        spec = find(self._header, name, self.name)
        first_byte(spec, start, out.size)
        count, size = elements(spec, out.size), spec.dtype.bits // 8
        wide = DTYPES["F64"]
        sources = Cast(self._base, wide), Cast(self._differences, wide)
        raw = np.empty((2, min(count, _BLOCK) * 8), np.uint8)
        for at in range(0, count, _BLOCK):
            length = min(_BLOCK, count - at)
            for source, row in zip(sources, raw, strict=True):
                source.read_into(self._names[name], start + at, row[: length * 8])
            total = raw[0, : length * 8].view("<f8") + raw[1, : length * 8].view("<f8")
            out[at * size : (at + length) * size] = convert(total.view(np.uint8), wide, spec.dtype)

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Passes the hint on to the base."""
        self._base.will_need(self._names[name], start, stop)

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to produce the whole tensor once."""
        return self._base.read_cost(self._names[name]) + self._differences.read_cost(self._names[name])

    def fingerprint(self) -> str:
        """A digest of both."""
        return digest_of("sum", self._base.fingerprint(), self._differences.fingerprint())

    def check_unchanged(self) -> None:
        """Checks that neither changed since it was opened.

        Raises:
            CheckpointError: when one did.
        """
        self._base.check_unchanged()
        self._differences.check_unchanged()

    def close(self) -> None:
        """Does nothing: both are closed by whoever opened them."""


class Zeros:
    """A source of zeros, float32 or of each tensor's own float type: what differences are differences from.

    Args:
        specs: the tensors; the first of a name counts.
    """

    def __init__(self, specs: Iterable[TensorSpec]) -> None:
        self._header: dict[str, TensorSpec] = {}
        for spec in specs:
            self._header.setdefault(spec.name, spec)

    @property
    def name(self) -> str:
        """How messages call it."""
        return "zeros"

    @property
    def header(self) -> Mapping[str, TensorSpec]:
        """The tensors."""
        return self._header

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with zeros."""
        first_byte(find(self._header, name, self.name), start, out.size)
        out[:] = 0

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Does nothing."""

    def read_cost(self, name: str) -> int:
        """Returns 0: nothing is read."""
        return 0

    def fingerprint(self) -> str:
        """A digest of the header."""
        return digest_of("zeros", *(f"{spec.name} {spec.shape} {spec.dtype}" for spec in self._header.values()))

    def check_unchanged(self) -> None:
        """Does nothing: zeros stay zeros."""

    def close(self) -> None:
        """Does nothing."""
