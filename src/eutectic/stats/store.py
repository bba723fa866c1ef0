"""Results of calibration on disk, each in a folder named by a digest of everything that it depends on.

    store/<digest>/about.json            what it is a result of
                   <part>.safetensors    the results at one block's tensors, there once that block is done
                   done                  all parts are there

A file appears by a rename, so it is whole; an interrupted calibration goes on with the blocks that have none.
"""

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.errors import CalibrationError, CheckpointError, OutputError
from eutectic.numerics.tensors import Tensor, torch
from eutectic.numerics.triangle import pack, unpack

_ABOUT, _DONE, _FACTS = "about.json", "done", "eutectic"
#: Part of every digest: a change of format or of what is computed makes all results new.
FORMAT = 1


@dataclass(frozen=True)
class Measured:
    """One model's result at one tensor; read when it is asked for, so that a method may hold one at a time.

    Attributes:
        rows: how many rows (tokens), or samples, it was made from.
        axis: which axis of the weights its width runs along: the last, but the first in GPT-2's transposed maps.
        load: reads the result.
        energy: the sum of its squares.
    """

    rows: int
    axis: int
    load: Callable[[], Tensor]
    energy: float = 0.0

    @classmethod
    def of(cls, result: Tensor, rows: int, axis: int = 1) -> "Measured":
        """Returns a result that is in memory already."""
        return cls(rows, axis, lambda: result, float(result.double().square().sum()))


@dataclass(frozen=True)
class Outcome:
    """A finished result on its way to the store; `same_as` names a tensor whose result is this one's, byte for byte."""

    rows: int
    axis: int
    result: Tensor | None
    same_as: str | None = None


@dataclass(frozen=True)
class Entry:
    """One folder of the store: its digest, bytes, whether it is finished, and what it is a result of."""

    digest: str
    nbytes: int
    finished: bool
    about: Mapping[str, Any]


class Store:
    """A folder of results.

    Args:
        folder: where; made when the first result is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def results(self, facts: Mapping[str, Any]) -> "Results":
        """Returns the results that depend on these facts, which are plain data."""
        text = json.dumps({**facts, "format": FORMAT}, sort_keys=True)
        return Results(self.folder / hashlib.sha256(text.encode()).hexdigest()[:32], facts)

    def open(self, digest: str) -> "Results":
        """Returns the results of a digest."""
        return Results(self.folder / digest, {})

    def entries(self) -> list[Entry]:
        """Returns everything that is stored, sorted by digest."""
        found = []
        for folder in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
            try:
                about = json.loads((folder / _ABOUT).read_text())
            except (OSError, ValueError):
                continue
            size = sum(file.stat().st_size for file in folder.iterdir())
            found.append(Entry(folder.name, size, (folder / _DONE).exists(), about))
        return found

    def delete(self, digest: str) -> int:
        """Deletes the results whose digest begins so, and returns their bytes.

        Raises:
            CalibrationError: when there is none, or there are several.
        """
        found = [entry for entry in self.entries() if entry.digest.startswith(digest)]
        if len(found) != 1 or not digest:
            several = ", ".join(entry.digest[:12] for entry in found) or "none"
            raise CalibrationError(f"{digest}: expected one stored result that begins so, found {several}")
        shutil.rmtree(self.folder / found[0].digest)
        return found[0].nbytes


class Results:
    """The results of one statistic, of one model on its data.

    Args:
        folder: theirs alone.
        facts: all they depend on, as plain data; `about.json` keeps it.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder, self.facts = folder, facts
        self._files: dict[str, SafetensorsFile] = {}
        self._known: dict[str, tuple[str, dict[str, Any]]] | None = None

    @property
    def digest(self) -> str:
        """Names them."""
        return self.folder.name

    @property
    def finished(self) -> bool:
        """Whether all parts are there."""
        return (self.folder / _DONE).exists()

    def has(self, part: str) -> bool:
        """Whether a part is there."""
        return self._path(part).exists()

    def write(self, part: str, outcomes: Mapping[str, Outcome], symmetric: bool = False) -> None:
        """Writes a part: the results at some tensors, by name.

        Raises:
            OutputError: when the disk is full or fails.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / _ABOUT).exists():
                _write(self.folder / _ABOUT, [json.dumps(self.facts, sort_keys=True).encode()])
            _write(self._path(part), _encode(outcomes, symmetric))
        except OSError as error:
            raise OutputError(
                f"{self.folder}: cannot keep results there: {error.strerror or error}; make room and run the same "
                "command again, or choose another folder with --store"
            ) from error

    def finish(self) -> None:
        """Says that all parts are there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / _DONE, [b""])

    def names(self) -> list[str]:
        """Returns the tensors that have a result."""
        return sorted(self._index())

    def __contains__(self, tensor: object) -> bool:
        return tensor in self._index()

    def measured(self, tensor: str) -> Measured:
        """Returns the result at a tensor; nothing is read yet.

        Raises:
            CalibrationError: when there is none.
        """
        if tensor not in self:
            raise CalibrationError(f"{self.folder}: holds no result at {tensor}; delete it and calibrate again")
        _, facts = self._index()[tensor]
        return Measured(facts["rows"], facts["axis"], lambda: self._load(tensor), float.fromhex(facts["energy"]))

    def read(self, tensor: str, start: int, count: int) -> Tensor:
        """Returns elements start, start + 1, ... of a result, flattened; of a result that is kept whole."""
        part, facts = self._index()[tensor]
        out = np.empty(count, np.float32)
        self._file(part).read_into(facts["same_as"] or tensor, start, out.view(np.uint8))
        return torch.from_numpy(out)

    def _load(self, tensor: str) -> Tensor:
        part, facts = self._index()[tensor]
        name = facts["same_as"] or tensor
        spec = self._file(part).header[name]
        out = np.empty(spec.shape, np.float32)
        self._file(part).read_into(name, 0, out.reshape(-1).view(np.uint8))
        width = facts["packed"]
        return torch.from_numpy(unpack(out, width) if width else out)

    def _index(self) -> dict[str, tuple[str, dict[str, Any]]]:
        if self._known is None:
            self._known = {}
            for path in sorted(self.folder.glob("*.safetensors")):
                entries = json.loads(self._file(path.stem).metadata[_FACTS])
                self._known |= {name: (path.stem, entry) for name, entry in entries.items()}
        return self._known

    def _file(self, part: str) -> SafetensorsFile:
        if part not in self._files:
            try:
                self._files[part] = SafetensorsFile(self._path(part))
            except CheckpointError as error:
                raise CalibrationError(f"{error}; delete {self.folder} and calibrate again") from error
        return self._files[part]

    def _path(self, part: str) -> Path:
        return self.folder / f"{part}.safetensors"

    def close(self) -> None:
        """Closes what was read."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._known = None


def _encode(outcomes: Mapping[str, Outcome], symmetric: bool) -> Sequence[bytes | memoryview]:
    """The pieces of a safetensors file."""
    header: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    bodies: list[memoryview] = []
    at = 0
    for name, outcome in outcomes.items():
        leader = outcomes[outcome.same_as] if outcome.same_as else outcome
        assert leader.result is not None  # a leader is no one's follower
        packed = leader.result.shape[-1] if symmetric else 0
        energy = float(leader.result.double().square().sum()).hex()
        facts[name] = {
            "rows": outcome.rows,
            "axis": outcome.axis,
            "same_as": outcome.same_as,
            "packed": packed,
            "energy": energy,
        }
        if outcome.same_as:
            continue
        data = np.ascontiguousarray(leader.result.numpy(force=True), np.float32)
        data = pack(data) if packed else data
        header[name] = {"dtype": "F32", "shape": list(data.shape), "data_offsets": [at, at + data.nbytes]}
        bodies.append(data.reshape(-1).view(np.uint8).data)
        at += data.nbytes
    header["__metadata__"] = {_FACTS: json.dumps(facts)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return [struct.pack("<Q", len(text)), text, *bodies]


def _write(path: Path, pieces: Sequence[bytes | memoryview]) -> None:
    """Writes a file that appears whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
