"""Weights of an output, at offsets known before the first byte: any order, any thread, the same bytes.

A layout is computed from specs alone. A writer then takes ranges of tensors in any order. Until `seal`, the first
eight bytes of every file (the header's length) stay zero, so that an unfinished file opens nowhere as a model.
"""

import errno
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from eutectic.checkpoint.header import LARGEST_HEADER
from eutectic.checkpoint.source import Buffer
from eutectic.checkpoint.spec import TensorSpec
from eutectic.errors import OutputError
from eutectic.quantities import format_bytes

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
#: Bytes of a page: what is written past the cache starts and ends at its multiples, in memory and in the file.
PAGE = 4096
#: Less than this goes through the cache: to wait for the disk would cost more than a copy.
LEAST_DIRECT = 1 << 18


@dataclass(frozen=True)
class Shard:
    """One file of an output.

    Attributes:
        filename: its name in the output folder.
        header: its first bytes: the length, the JSON and its padding.
        size: bytes of the whole file.
        offsets: where each tensor begins, in bytes from the start of the file.
        sizes: bytes of each tensor.
    """

    filename: str
    header: bytes
    size: int
    offsets: Mapping[str, int]
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class ShardLayout:
    """All files of an output, and the text of their index when there are several."""

    shards: tuple[Shard, ...]
    index: str | None

    @cached_property
    def _numbers(self) -> Mapping[str, int]:
        return {name: number for number, shard in enumerate(self.shards) for name in shard.offsets}

    @property
    def nbytes(self) -> int:
        """Bytes of all shards, headers included."""
        return sum(shard.size for shard in self.shards)

    def locate(self, name: str) -> tuple[int, int]:
        """Returns the number of the shard that holds tensor `name`, and the tensor's first byte in that file."""
        number = self._numbers[name]
        return number, self.shards[number].offsets[name]


def lay_out(specs: Sequence[TensorSpec], shard_size: int, metadata: Mapping[str, str]) -> ShardLayout:
    """Decides which file holds each tensor, and where; the same for the same arguments, always.

    Shards are filled in the given order up to `shard_size` bytes of tensors; a tensor larger than that has a shard to
    itself. Within a shard, wider element types come first, so that every tensor is aligned to its elements.

    Raises:
        OutputError: when a name cannot be written, or a header would be larger than the format allows.
    """
    names = {spec.name for spec in specs}
    if len(names) != len(specs):
        raise ValueError("two tensors of an output have one name")
    if "__metadata__" in names:
        raise OutputError("a tensor cannot be named '__metadata__' in a safetensors file; rename it")
    groups: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in specs:
        if groups[-1] and filled + spec.nbytes > shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(spec)
        filled += spec.nbytes
    if len(groups) == 1:
        return ShardLayout((lay_out_file(WEIGHTS, groups[0], metadata),), None)
    total = len(groups)
    shards = tuple(
        lay_out_file(f"model-{number:05d}-of-{total:05d}.safetensors", group, metadata)
        for number, group in enumerate(groups, start=1)
    )
    weight_map = {name: shard.filename for shard in shards for name in shard.offsets}
    index = {"metadata": {"total_size": sum(spec.nbytes for spec in specs)}, "weight_map": weight_map}
    return ShardLayout(shards, json.dumps(index, indent=2, sort_keys=True) + "\n")


def lay_out_one(specs: Sequence[TensorSpec], filename: str, metadata: Mapping[str, str]) -> ShardLayout:
    """Decides the places of all tensors in one file of that name, for programs that look for no other.

    Raises:
        OutputError: as `lay_out`.
    """
    return ShardLayout((lay_out_file(filename, specs, metadata),), None)


def lay_out_file(filename: str, specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> Shard:
    """Decides where each tensor lies in one file: wider element types first, else in the given order.

    Raises:
        OutputError: when the header would be larger than the format allows.
    """
    ordered = sorted(specs, key=lambda spec: -spec.dtype.bits)
    table: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    begins: dict[str, int] = {}
    reached = 0
    for spec in ordered:
        begins[spec.name] = reached
        reached += spec.nbytes
        table[spec.name] = {
            "dtype": spec.dtype.name,
            "shape": list(spec.shape),
            "data_offsets": [begins[spec.name], reached],
        }
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > LARGEST_HEADER:
        raise OutputError(
            f"{filename}: its header of {len(text)} bytes is above the format's {LARGEST_HEADER}; choose smaller shards"
        )
    header = len(text).to_bytes(8, "little") + text
    offsets = {name: len(header) + begin for name, begin in begins.items()}
    sizes = {spec.name: spec.nbytes for spec in ordered}
    return Shard(filename, header, len(header) + reached, offsets, sizes)


def write_index(folder: Path, layout: ShardLayout) -> None:
    """Writes the index of a sharded output and syncs it; an output of one file has none.

    Raises:
        OutputError: when it cannot be written.
    """
    if layout.index is None:
        return
    try:
        with open(folder / INDEX, "w", encoding="utf-8") as file:
            file.write(layout.index)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(folder)
    except OSError as error:
        raise _failure(folder / INDEX, error, "write the index") from error


def _failure(path: Path, error: OSError, doing: str) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"{path}: the disk is full, cannot {doing} ({format_bytes(_free(path.parent))} free). What is written "
            "stays, with its journal: make room and run the same command again to resume."
        )
    if error.errno == errno.EIO:
        return OutputError(
            f"{path}: the disk failed, cannot {doing}: {error.strerror}. What is written stays, with its journal: "
            "run the same command again to resume, or choose a folder on another disk."
        )
    return OutputError(f"{path}: cannot {doing}: {error.strerror or error}")


def _free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


class ShardWriter:
    """The files of one output, open for writing in any order from any thread.

    Files that exist already are reopened and keep their bytes, so that a killed run resumes; which ranges of them can
    be trusted is the journal's to know.

    Args:
        folder: where the files go; it must exist.
        layout: what they hold.
        preallocate: reserve all space at once, so that a full disk is found before any work is done.

    Raises:
        OutputError: when the folder cannot be written, has too little room, or holds a link where a file should go.
    """

    def __init__(self, folder: Path, layout: ShardLayout, preallocate: bool = True) -> None:
        self.folder = folder
        self.layout = layout
        self._descriptors: list[int] = []
        self._direct: list[int | None] = []
        self._past_cache = True
        self._dirty: set[int] = set()
        self._broken = False
        try:
            for shard in layout.shards:
                _make_folder(folder, (folder / shard.filename).parent)
                self._descriptors.append(_open_output(folder / shard.filename))
                self._direct.append(_open_direct(folder / shard.filename))
            self._reserve(preallocate)
            for number, shard in enumerate(layout.shards):
                self._pwrite(number, bytes(8) + shard.header[8:], 0, "write the header")
            for inner in sorted({(folder / shard.filename).parent for shard in layout.shards} | {folder}):
                _sync_folder(inner)
        except BaseException:
            self.close()
            raise

    def _reserve(self, preallocate: bool) -> None:
        held = sum(os.fstat(each).st_blocks * 512 for each in self._descriptors)
        needed = self.layout.nbytes - held
        # Asked before reserving: a reservation that fails half-way would leave the disk full for everybody.
        if preallocate and needed > _free(self.folder):
            raise self._no_room(needed)
        for descriptor, shard in zip(self._descriptors, self.layout.shards, strict=True):
            try:
                if preallocate:
                    _allocate(descriptor, shard.size)
                os.ftruncate(descriptor, shard.size)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise self._no_room(needed) from error
                raise _failure(self.folder / shard.filename, error, f"reserve {format_bytes(shard.size)}") from error

    def _no_room(self, needed: int) -> OutputError:
        return OutputError(
            f"{self.folder}: the output needs {format_bytes(needed)} more, and the disk has "
            f"{format_bytes(_free(self.folder))} free. Make room and run the same command again."
        )

    def phase(self, name: str, start_byte: int) -> int:
        """Returns where in a page of the file byte `start_byte` of tensor `name` lies."""
        return (self.layout.locate(name)[1] + start_byte) % PAGE

    def write(self, name: str, start_byte: int, data: Buffer) -> None:
        """Writes `data` into tensor `name`, from its byte `start_byte` on; other threads run meanwhile.

        A large buffer whose address has the `phase` of its place goes to the disk as it is. The system would copy any
        other into memory of its own first, which costs more than most merges, and makes room by forgetting inputs.

        Raises:
            OutputError: when the disk is full or fails.
        """
        number, offset = self.layout.locate(name)
        if start_byte < 0 or start_byte + data.size > self.layout.shards[number].sizes[name]:
            raise ValueError(f"{data.size} bytes from byte {start_byte} leave tensor '{name}'")
        self._pwrite(number, data, offset + start_byte, f"write tensor '{name}'")

    def _pwrite(self, number: int, data: Buffer | bytes, offset: int, doing: str) -> None:
        view = memoryview(data) if isinstance(data, bytes) else data.data
        done = 0
        try:
            if not isinstance(data, bytes) and (data.ctypes.data - offset) % PAGE == 0:
                done = self._pwrite_pages(number, view, offset)
            while done < len(view):
                done += os.pwrite(self._descriptors[number], view[done:], offset + done)
        except OSError as error:
            raise _failure(self.folder / self.layout.shards[number].filename, error, doing) from error
        self._dirty.add(number)

    def _pwrite_pages(self, number: int, view: memoryview, offset: int) -> int:
        """Writes a large buffer up to its last whole page, past the cache; returns how many bytes those are."""
        direct, head = self._direct[number], -offset % PAGE
        pages = (len(view) - head) // PAGE * PAGE
        if direct is None or pages < LEAST_DIRECT or not self._past_cache:
            return 0
        if head and os.pwrite(self._descriptors[number], view[:head], offset) < head:
            return 0
        try:
            return head + os.pwrite(direct, view[head : head + pages], offset + head)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._past_cache = False  # opened, but not written: a filesystem with other ideas of alignment
            return 0

    def sync(self) -> None:
        """Returns when every write that returned before this call is on the disk.

        Raises:
            OutputError: when the disk failed; after that every further sync fails too, because the system forgets
                which bytes were lost.
        """
        if self._broken:
            raise OutputError(f"{self.folder}: an earlier sync failed; run the same command again to resume")
        for number in sorted(self._dirty):
            self._dirty.discard(number)  # before the sync: a write during it must be synced again
            try:
                os.fdatasync(self._descriptors[number])
            except OSError as error:
                self._broken = True
                path = self.folder / self.layout.shards[number].filename
                raise _failure(path, error, "sync the written bytes") from error

    def seal(self) -> None:
        """Makes the files whole: syncs their tensors, then writes the headers' lengths and syncs again.

        Raises:
            OutputError: when the disk is full or fails.
        """
        self.sync()
        for number, shard in enumerate(self.layout.shards):
            self._pwrite(number, shard.header[:8], 0, "seal the header")
        self.sync()

    def close(self) -> None:
        """Closes the files, whole or not."""
        while self._descriptors:
            os.close(self._descriptors.pop())
        while self._direct:
            direct = self._direct.pop()
            if direct is not None:
                os.close(direct)


def _make_folder(home: Path, inner: Path) -> None:
    """Makes the folder of a file that does not lie in the output folder itself."""
    if inner == home:
        return
    try:
        inner.mkdir(exist_ok=True)
    except OSError as error:
        raise _failure(inner, error, "make the folder") from error
    if inner.is_symlink():
        raise OutputError(f"{inner}: expected a folder of this job's own, found a symbolic link")


def _open_output(path: Path) -> int:
    """Opens or creates a file for writing that has no other name: writing through a link could change an input."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OutputError(f"{path}: expected no file or one of this job's own, found a symbolic link") from error
        raise _failure(path, error, "open it for writing") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise OutputError(f"{path}: expected a file with no other name, found a device or a hard link")
    return descriptor


def _open_direct(path: Path) -> int | None:
    """Opens a file once more, for writing past the page cache; None where the system or the filesystem cannot."""
    if not hasattr(os, "O_DIRECT"):
        return None
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None


def _allocate(descriptor: int, size: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        # Some network and stacked filesystems cannot reserve; a full disk is then found by the write that meets it.
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV):
            raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
