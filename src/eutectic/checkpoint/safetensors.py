"""One safetensors file as a source: a strict header, then positioned reads straight into the caller's memory."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from eutectic.checkpoint.files import InputFile
from eutectic.checkpoint.header import LARGEST_HEADER, Header, parse_header
from eutectic.checkpoint.ranges import find, first_byte
from eutectic.checkpoint.source import Buffer
from eutectic.checkpoint.spec import TensorSpec
from eutectic.errors import CheckpointError


class Positioned(Protocol):
    """A file that is read by position, wherever it is: what it is called, its size in bytes, and its bytes."""

    @property
    def path(self) -> Path: ...
    @property
    def size(self) -> int: ...
    def read_exactly(self, out: memoryview, offset: int) -> None: ...


def read_header(file: Positioned) -> bytes:
    """Returns the first bytes of a file: the length and the header it announces.

    Raises:
        CheckpointError: when the file is too short for it, or it is longer than the format allows.
    """
    if file.size < 8:
        raise CheckpointError(f"{file.path}: expected at least the 8 bytes of a header's length, found {file.size}")
    raw = bytearray(8)
    file.read_exactly(memoryview(raw), 0)
    length = int.from_bytes(raw, "little")
    if length > LARGEST_HEADER:
        raise CheckpointError(f"{file.path}: announces a header of {length} bytes, above the format's {LARGEST_HEADER}")
    if length > file.size - 8:
        raise CheckpointError(
            f"{file.path}: announces a header of {length} bytes, but only {file.size - 8} follow (truncated?)"
        )
    raw = bytearray(8 + length)
    file.read_exactly(memoryview(raw), 0)
    return bytes(raw)


class SafetensorsFile:
    """A source of the tensors of one safetensors file.

    Args:
        path: the file; it is opened, and its header read and checked, at once.
        parked: keep it open only while it is read.

    Raises:
        CheckpointError: when the file cannot be opened or breaks a rule of the format.
    """

    def __init__(self, path: Path, *, parked: bool = False) -> None:
        self.path = path
        self._file = InputFile(path, parked=parked)
        try:
            raw = read_header(self._file)
            self._parsed: Header = parse_header(raw[8:], self._file.size - len(raw), self.name)
        except BaseException:
            self._file.close()
            raise
        self._body = len(raw)
        self._header_digest = hashlib.sha256(raw).digest()

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def header(self) -> Mapping[str, TensorSpec]:
        """Every tensor by name, in the order of their bytes."""
        return self._parsed.tensors

    @property
    def metadata(self) -> Mapping[str, str]:
        """The free text the file carries under `__metadata__`."""
        return self._parsed.metadata

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with the bytes of elements `start, start + 1, ...` of tensor `name`.

        Raises:
            CheckpointError: when the file is shorter than its header said, or cannot be read.
        """
        spec = find(self.header, name, self.name)
        offset = self._body + self._parsed.offsets[name] + first_byte(spec, start, out.size)
        self._file.read_exactly(out.data, offset, name)

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Tells the operating system that elements `start..stop` of tensor `name` are read soon."""
        bits = find(self.header, name, self.name).dtype.bits
        first = start * bits // 8
        self._file.will_need(self._body + self._parsed.offsets[name] + first, stop * bits // 8 - first)

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to produce the whole tensor once: its size."""
        return find(self.header, name, self.name).nbytes

    def fingerprint(self) -> str:
        """A digest of the header, the file's size and time, and 16 blocks of 4 KiB spread over it.

        Raises:
            CheckpointError: when the file cannot be read.
        """
        return self._file.fingerprint(self._header_digest)

    def check_unchanged(self) -> None:
        """Checks that the file's size and modification time are those it was opened with.

        Raises:
            CheckpointError: when somebody wrote to the file since.
        """
        self._file.check_unchanged()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
