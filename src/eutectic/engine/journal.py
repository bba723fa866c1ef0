"""What of a job is done and safe on disk, so that a killed run resumes where it was.

One JSON document a line, behind its checksum, appended only after the bytes it speaks of are synced. Nothing from the
first torn or damaged line on is believed. The first line names the job: a digest of everything that decides a byte of
the output. Holding the file's lock is owning the job.
"""

import fcntl
import json
import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eutectic.errors import OutputError

VERSION = 1


class Journal:
    """The journal of one staging folder, locked for this process.

    Raises:
        OutputError: when another process holds it.
    """

    def __init__(self, path: Path, job: str) -> None:
        self.path, self.job = path, job
        self._lock = threading.Lock()
        self._waiting: list[str] = []
        self._done: dict[str, list[tuple[int, int]]] = {}
        self._results: dict[str, Any] = {}
        self.non_finite: dict[str, int] = {}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise OutputError(f"{path.parent}: another run is writing there; wait for it or stop it") from error
        self.owner = self._read()

    def _read(self) -> str | None:
        """Reads the lines that are whole; returns the job they are of, or None for a new journal."""
        with os.fdopen(os.dup(self._file), "rb") as file:
            text = file.read()
        owner = None
        self._good = 0
        for line in text.splitlines(keepends=True):
            entry = _parse(line)
            if entry is None:
                break  # nothing after a damaged line is trusted
            self._good += len(line)
            if "job" in entry:
                owner = entry["job"] if entry.get("version") == VERSION else "of another version"
            elif "done" in entry:
                name, start, stop, bad = entry["done"]
                self._done.setdefault(name, []).append((start, stop))
                self._count(name, bad)
            elif "result" in entry:
                self._results[entry["result"]] = _decode(entry["value"])
        return owner

    def _count(self, name: str, bad: int) -> None:
        if bad:
            self.non_finite[name] = self.non_finite.get(name, 0) + bad

    @property
    def resumes(self) -> bool:
        """Whether work of an earlier run was found."""
        return bool(self._done or self._results)

    def resume(self) -> None:
        """Cuts off what is damaged, so that new lines follow good ones."""
        os.ftruncate(self._file, self._good)

    def begin(self) -> None:
        """Starts the journal over for this job.

        Raises:
            OutputError: when it cannot be written.
        """
        os.ftruncate(self._file, 0)
        self._done.clear()
        self._results.clear()
        self.non_finite.clear()
        self._waiting = [json.dumps({"job": self.job, "version": VERSION})]
        self.commit(self.take())

    def missing(self, name: str, numel: int) -> Iterator[tuple[int, int]]:
        """Yields the element ranges of a tensor that are not done."""
        at = 0
        for start, stop in sorted(self._done.get(name, [])):
            if start > at:
                yield at, start
            at = max(at, stop)
        if at < numel or (numel == 0 and name not in self._done):
            yield at, numel

    def result(self, key: str) -> Any:
        """Returns a stored statistic, or None."""
        return self._results.get(key)

    def done(self, name: str, start: int, stop: int, bad: int = 0) -> None:
        """Notes a finished range with `bad` values that are not finite; not on record until taken and committed."""
        with self._lock:
            self._waiting.append(json.dumps({"done": [name, start, stop, bad]}))
            self._count(name, bad)

    def found(self, key: str, value: Any) -> None:
        """Notes the result of a statistic."""
        with self._lock:
            self._waiting.append(json.dumps({"result": key, "value": _encode(value)}))

    def take(self) -> list[str]:
        """Takes the notes so far. Sync the data they speak of, then `commit` them."""
        with self._lock:
            taken, self._waiting = self._waiting, []
        return taken

    def commit(self, notes: list[str]) -> None:
        """Puts notes on record.

        Raises:
            OutputError: when the disk is full or fails.
        """
        data = b"".join(_line(note) for note in notes)
        try:
            os.lseek(self._file, 0, os.SEEK_END)
            while data:
                data = data[os.write(self._file, data) :]
            if notes:
                os.fsync(self._file)
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot write the journal: {error.strerror or error}; make room and run the same command "
                "again to resume"
            ) from error

    def close(self) -> None:
        """Releases the lock; what was not committed is forgotten."""
        os.close(self._file)


def _line(note: str) -> bytes:
    text = note.encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parse(line: bytes) -> dict[str, Any] | None:
    """Reads one line; None when it is torn or damaged."""
    checksum, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry


def _encode(value: Any) -> Any:
    """Writes a statistic's result as JSON, floats to the last bit."""
    if isinstance(value, np.ndarray):
        return {"array": [float(x).hex() for x in value.reshape(-1)], "shape": list(value.shape)}
    if isinstance(value, tuple):
        return {"floats": [float(x).hex() for x in value]}
    return {"int": int(value)}


def _decode(value: Any) -> Any:
    if "array" in value:
        return np.array([float.fromhex(x) for x in value["array"]]).reshape(value["shape"])
    if "floats" in value:
        return tuple(float.fromhex(x) for x in value["floats"])
    return int(value["int"])
