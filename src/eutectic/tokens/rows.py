"""A lazy source whose embeddings have a row for each token of another vocabulary; a method sees ordinary tensors.

Rows that a model has are its own. Each other row is the mean of rows of several inputs (one: a copy; none: zeros), the
mean of all rows the model stores, or predicted; padding is the mean of the rows that are shown. Nothing is held but
the tables of numbers, one mean row a tensor, and what was predicted; everything is read and computed in the slices
that are asked for.
"""

import hashlib
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from eutectic.checkpoint.ranges import elements, find, first_byte
from eutectic.checkpoint.rounding import convert
from eutectic.checkpoint.source import Buffer, Source
from eutectic.checkpoint.spec import DTYPES, DType, TensorSpec
from eutectic.checkpoint.views import digest_of

Ids = NDArray[np.int32]

#: What stands in `Rows.own` where a model has no row: filled by inputs' rows; the mean of all others shown (padding);
#: the mean of all stored; and `PREDICTED - n`, row n of the predicted ones.
FILLED, PADDING, MEAN, PREDICTED = -1, -2, -3, -4
#: Bytes of rows that are read at once when the mean of all rows is taken.
BLOCK = 1 << 20
_F64, _F32 = DTYPES["F64"], DTYPES["F32"]


class Prediction(Protocol):
    """Rows that are computed from whole matrices when the first is asked for."""

    def rows(self) -> NDArray[np.float32]:
        """Returns them, shape (predicted, width)."""
        ...

    def digest(self) -> str:
        """Returns a digest of everything they depend on."""
        ...


@dataclass(frozen=True)
class Given:
    """A tensor of an input that fills the rows of others."""

    source: Source
    name: str


@dataclass(frozen=True)
class Rows:
    """The rows of one tensor, one a token.

    Attributes:
        spec: what is shown: tokens along axis 0, or along the last axis of a tensor of shape (1, tokens).
        own: for each token the model's row, or FILLED, PADDING, MEAN, or PREDICTED - n; shape (tokens,).
        given: the tensors that fill rows, of the same width.
        filled: for each token the rows of `given` whose mean is its row, -1 for none; shape (tokens, given).
        prediction: what predicts rows, if anything does.
    """

    spec: TensorSpec
    own: Ids
    given: tuple[Given, ...]
    filled: Ids
    prediction: Prediction | None = None

    @property
    def width(self) -> int:
        """Elements of a row."""
        return self.spec.numel // max(1, len(self.own))


class TokenRows:
    """A source with the rows of some tensors by the tokens of another vocabulary.

    Args:
        source: what is read; it is closed with this one.
        tensors: the rows of the tensors that have tokens; the others are shown as they are.
        closing: other sources that are read for the rows and belong to nobody else.
    """

    def __init__(self, source: Source, tensors: Mapping[str, Rows], closing: Sequence[Source] = ()) -> None:
        self.source, self.tensors, self.closing = source, dict(tensors), tuple(closing)
        self._header = {name: tensors[name].spec if name in tensors else spec for name, spec in source.header.items()}
        self._means: dict[tuple[str, int], Buffer] = {}
        self._locks = {(name, what): threading.Lock() for name in tensors for what in (MEAN, PADDING)}

    @property
    def name(self) -> str:
        """The source's name and what is done to it."""
        return f"{self.source.name} (by token)"

    @property
    def header(self) -> Mapping[str, TensorSpec]:
        """Every tensor by name, in the source's order."""
        return self._header

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with the bytes of elements `start, start + 1, ...` of tensor `name`.

        Raises:
            CheckpointError: when an input cannot be read.
        """
        if name not in self.tensors:
            self.source.read_into(name, start, out)
            return
        spec = find(self._header, name, self.name)
        first_byte(spec, start, out.size)
        self._read(name, start, start + elements(spec, out.size), out, padding=True)

    def _read(self, name: str, start: int, stop: int, out: Buffer, *, padding: bool) -> None:
        """Reads elements start..stop; without `padding`, those rows are left as they are."""
        rows, at = self.tensors[name], start
        width, size = rows.width, rows.spec.dtype.bits // 8
        while at < stop:
            token, within = divmod(at, width)
            own, end = int(rows.own[token]), min(stop, (token + 1) * width)
            if own >= 0:
                last = token + 1
                while last * width < stop and rows.own[last] == own + last - token:  # read at once what is in one piece
                    last += 1
                end = min(stop, last * width)
                _copy(
                    self.source, name, own * width + within, out[(at - start) * size : (end - start) * size], rows.spec
                )
            elif own != PADDING or padding:
                part = out[(at - start) * size : (end - start) * size]
                self._make(name, token, within, within + end - at, part)
            at = end

    def _make(self, name: str, token: int, first: int, last: int, out: Buffer) -> None:
        """Writes elements first..last of a row that the model does not have."""
        rows = self.tensors[name]
        own, size = int(rows.own[token]), rows.spec.dtype.bits // 8
        if own in (MEAN, PADDING):
            out[:] = self._mean(name, own)[first * size : last * size]
        elif own <= PREDICTED and rows.prediction is not None:
            made = np.ascontiguousarray(rows.prediction.rows()[PREDICTED - own, first:last])
            out[:] = convert(made.view(np.uint8), _F32, rows.spec.dtype)
        else:
            taken = [(given, int(row)) for given, row in zip(rows.given, rows.filled[token], strict=True) if row >= 0]
            parts = [(given.source, given.name, row * rows.width + first) for given, row in taken]
            if not parts:
                out[:] = 0
            elif len(parts) == 1:
                _copy(*parts[0], out, rows.spec)
            else:
                total = np.zeros(last - first)
                wide = np.empty((last - first) * 8, np.uint8)
                for source, tensor, at in parts:
                    _copy(source, tensor, at, wide, TensorSpec(tensor, rows.spec.shape, _F64))
                    total += wide.view(np.float64)
                out[:] = convert((total / len(parts)).view(np.uint8), _F64, rows.spec.dtype)

    def _mean(self, name: str, what: int) -> Buffer:
        """Returns the mean of the stored rows (MEAN), or of those shown that are no padding; computed once."""
        with self._locks[name, what]:
            if (name, what) not in self._means:
                rows, stored = self.tensors[name], self.source.header[name]
                if what == MEAN:
                    counted, dtype = np.ones(stored.numel // max(1, rows.width), np.bool_), stored.dtype
                else:
                    counted, dtype = rows.own != PADDING, rows.spec.dtype
                total, block = np.zeros(rows.width), max(1, BLOCK // max(1, rows.width * 8))
                for start in range(0, len(counted), block):
                    kept = counted[start : start + block]
                    raw = np.zeros(len(kept) * rows.width * dtype.bits // 8, np.uint8)
                    first = start * rows.width
                    if what == MEAN:
                        self.source.read_into(name, first, raw)
                    else:
                        self._read(name, first, first + len(kept) * rows.width, raw, padding=False)
                    wide = convert(raw, dtype, _F64).view(np.float64).reshape(len(kept), rows.width)
                    for row in wide[kept]:  # one after the other: the same sum whatever the block
                        total += row
                mean = total / max(1, int(counted.sum()))
                self._means[name, what] = convert(mean.view(np.uint8), _F64, rows.spec.dtype)
            return self._means[name, what]

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Tells the operating system about rows that follow each other in the file too; others are left to chance."""
        if name not in self.tensors:
            self.source.will_need(name, start, stop)
            return
        rows = self.tensors[name]
        first, last = start // max(1, rows.width), -(-stop // max(1, rows.width))
        own = rows.own[first:last]
        if len(own) and own[0] >= 0 and own[-1] - own[0] == len(own) - 1:
            self.source.will_need(name, int(own[0]) * rows.width, int(own[-1] + 1) * rows.width)

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to produce the whole tensor once."""
        if name not in self.tensors:
            return self.source.read_cost(name)
        return sum(math.ceil(cost) for cost in self._costs(self.tensors[name], name))

    def _costs(self, rows: Rows, name: str) -> Iterator[float]:
        """Yields what each input's rows cost, by its cost of a row."""
        own = int((rows.own >= 0).sum()) * (2 if (rows.own == PADDING).any() else 1)
        stored = self.source.header[name].numel // max(1, rows.width) if (rows.own == MEAN).any() else 0
        counts = [(self.source, name, own + stored)]
        missing = rows.own == FILLED
        for place, given in enumerate(rows.given):
            counts.append((given.source, given.name, int((rows.filled[missing, place] >= 0).sum())))
        for source, tensor, count in counts:
            numel = source.header[tensor].numel
            yield source.read_cost(tensor) * count * rows.width / numel if numel else 0.0

    def fingerprint(self) -> str:
        """A digest of the tables and of the fingerprints of everything that is read.

        Raises:
            CheckpointError: when an input cannot be read.
        """
        parts = ["by token", self.source.fingerprint()]
        for name, rows in self.tensors.items():
            parts += [repr(rows.spec), hashlib.sha256(rows.own.tobytes() + rows.filled.tobytes()).hexdigest()]
            parts += [f"{given.name} {given.source.fingerprint()}" for given in rows.given]
            parts += [rows.prediction.digest()] if rows.prediction is not None else []
            parts.append(name)
        return digest_of(*parts)

    def check_unchanged(self) -> None:
        """Checks that the source, and those that fill its rows, did not change since they were opened.

        Raises:
            CheckpointError: when one did.
        """
        self.source.check_unchanged()
        for each in self.closing:
            each.check_unchanged()

    def close(self) -> None:
        """Closes the source, and what belongs to nobody else."""
        self.source.close()
        for each in self.closing:
            each.close()


def _copy(source: Source, name: str, start: int, out: Buffer, shown: TensorSpec) -> None:
    """Fills `out` with elements from `start` on, in the type that is shown."""
    inner = source.header[name].dtype
    if inner == shown.dtype:
        source.read_into(name, start, out)
        return
    raw = np.empty(out.size * inner.bits // shown.dtype.bits, np.uint8)
    source.read_into(name, start, raw)
    out[:] = convert(raw, inner, shown.dtype)


def shown_type(types: Sequence[DType], computed: bool) -> DType:
    """Returns the type that holds rows of these types: the same where they agree, else float32 or float64.

    `computed`: some rows are means or predictions, which no type of 16 bits holds without another rounding.
    """
    if any(each.name == "F64" for each in types):
        return _F64
    return types[0] if len(set(types)) == 1 and not computed else _F32
