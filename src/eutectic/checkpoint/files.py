"""Files that are read and never written: opened once, read by position from any thread, watched for changes."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eutectic.errors import CheckpointError

_SAMPLES = 16
_SAMPLE = 4096


def _open(path: Path) -> int:
    try:
        # O_NONBLOCK: opening a pipe that pretends to be a checkpoint must not wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise CheckpointError(f"{path}: {'no such file' if missing else f'cannot be opened: {error}'}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{path}: expected a regular file, found a folder, pipe or device")
    return descriptor


class InputFile:
    """A regular file for positioned reads.

    Args:
        path: where it is.
        parked: open it for each read and not in between. A recipe may name a thousand small files, and a process may
            have no more than that open.

    Attributes:
        path: where it was found.
        size: its size in bytes when it was opened.

    Raises:
        CheckpointError: when there is none, it cannot be read, or it is a folder, pipe or device.
    """

    def __init__(self, path: Path, *, parked: bool = False) -> None:
        self.path = path
        self._parked = parked
        self._closed = False
        self._descriptor = _open(path)
        status = os.fstat(self._descriptor)
        self.size = status.st_size
        self._modified = status.st_mtime_ns
        if parked:
            self._leave()

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Gives the descriptor, or one for this read alone; of a file that is the one first opened, unchanged."""
        if not self._parked or self._closed:
            yield self._descriptor
            return
        descriptor = _open(self.path)
        try:
            self._compare(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)

    def read_exactly(self, out: memoryview, offset: int, tensor: str | None = None) -> None:
        """Fills `out` (bytes) from byte `offset` of the file; other threads run meanwhile.

        Raises:
            CheckpointError: when the file ends before, or the disk fails; `tensor` is named if given.
        """
        with self._opened() as descriptor:
            self._read(descriptor, out, offset, tensor)

    def _read(self, descriptor: int, out: memoryview, offset: int, tensor: str | None) -> None:
        where = f"{self.path}" if tensor is None else f"{self.path}: tensor '{tensor}'"
        done = 0
        while done < len(out):
            try:
                got = os.preadv(descriptor, [out[done:]], offset + done)
            except OSError as error:
                reason = "the file is closed" if descriptor < 0 else error.strerror
                raise CheckpointError(f"{where}: cannot be read at byte {offset + done}: {reason}") from error
            if got == 0:
                raise CheckpointError(
                    f"{where}: the file is shorter than its header said: it ends before byte {offset + len(out)}"
                )
            done += got

    def will_need(self, offset: int, length: int) -> None:
        """Tells the operating system that `length` bytes from `offset` on are read soon."""
        if length > 0 and self._descriptor >= 0:  # to the system a length of 0 means the rest of the file
            os.posix_fadvise(self._descriptor, offset, length, os.POSIX_FADV_WILLNEED)

    def fingerprint(self, known: bytes = b"") -> str:
        """A digest of `known`, the file's size and time, and 16 blocks of 4 KiB spread evenly over it.

        Raises:
            CheckpointError: when the file cannot be read.
        """
        digest = hashlib.sha256(known)
        digest.update(f"{self.size} {self._modified}".encode())
        buffer = bytearray(min(_SAMPLE, self.size))
        for index in range(_SAMPLES):
            self.read_exactly(memoryview(buffer), (self.size - len(buffer)) * index // (_SAMPLES - 1))
            digest.update(buffer)
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Checks that size and modification time are those the file was opened with.

        Raises:
            CheckpointError: when somebody wrote to the file since.
        """
        if self._closed:
            raise CheckpointError(f"{self.path}: the file is closed")
        with self._opened() as descriptor:
            self._compare(descriptor)

    def _compare(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if (status.st_size, status.st_mtime_ns) != (self.size, self._modified):
            raise CheckpointError(f"{self.path}: the file changed while it was being read; run again on a quiet copy")

    def close(self) -> None:
        """Closes the file; it cannot be read afterwards."""
        self._closed = True
        self._leave()

    def _leave(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read_text_file(path: Path, limit: int) -> bytes:
    """Returns the bytes of a small file, of at most `limit` bytes.

    Raises:
        CheckpointError: when it cannot be read or is larger.
    """
    file = InputFile(path)
    try:
        if file.size > limit:
            raise CheckpointError(f"{path}: expected at most {limit} bytes of JSON, found {file.size}")
        raw = bytearray(file.size)
        file.read_exactly(memoryview(raw), 0)
        return bytes(raw)
    finally:
        file.close()
