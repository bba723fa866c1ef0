"""Several weight files as one source, and what their index must say.

The rules: every tensor of the index lies in the file the index names, every tensor of those files is in the index,
and no two files hold one name. The index's `total_size` is not checked: published indexes are often wrong about it
(tied weights counted twice), and nothing here depends on it.
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from eutectic.checkpoint.files import read_text_file
from eutectic.checkpoint.header import LARGEST_HEADER, parse_json, printable
from eutectic.checkpoint.ranges import find
from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.checkpoint.source import Buffer, Source
from eutectic.checkpoint.spec import TensorSpec
from eutectic.errors import CheckpointError, nearest

_NUMBERED = re.compile(r"(.+)-(\d{5,})-of-(\d{5,})\.\w+")
_SUFFIX, _MAIN = ".safetensors", "model.safetensors"
_NONE: Final[Mapping[str, Source]] = MappingProxyType({})


class ShardedFolder:
    """A source of the tensors of several files.

    Args:
        folder: where the files lie; what messages call this source.
        shards: the open files by file name; they are closed with this source.

    Raises:
        CheckpointError: when two files hold a tensor of one name.
    """

    def __init__(self, folder: Path, shards: Mapping[str, Source]) -> None:
        self.folder = folder
        self.shards = dict(shards)
        self._header: dict[str, TensorSpec] = {}
        self._holder: dict[str, str] = {}
        for filename, shard in self.shards.items():
            for name, spec in shard.header.items():
                if name in self._holder:
                    raise CheckpointError(
                        f"{folder}: tensor '{name}' is in two files, {self._holder[name]} and {filename}; "
                        "remove the file that does not belong to this model"
                    )
                self._holder[name] = filename
                self._header[name] = spec

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def header(self) -> Mapping[str, TensorSpec]:
        """Every tensor by name, file by file, in stored order."""
        return self._header

    def holder(self, name: str) -> str:
        """Returns the name of the file that holds tensor `name`.

        Raises:
            CheckpointError: when there is no such tensor.
        """
        if name not in self._holder:
            find(self._header, name, self.name)
        return self._holder[name]

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with the bytes of elements `start, start + 1, ...` of tensor `name`.

        Raises:
            CheckpointError: when the file is shorter than its header said, or cannot be read.
        """
        self.shards[self.holder(name)].read_into(name, start, out)

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Tells the operating system that elements `start..stop` of tensor `name` are read soon."""
        self.shards[self.holder(name)].will_need(name, start, stop)

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to produce the whole tensor once."""
        return self.shards[self.holder(name)].read_cost(name)

    def fingerprint(self) -> str:
        """A digest of the files' names and fingerprints.

        Raises:
            CheckpointError: when a file cannot be read.
        """
        digest = hashlib.sha256()
        for filename, shard in self.shards.items():
            digest.update(f"{filename}\0{shard.fingerprint()}\n".encode())
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Checks that no file changed since it was opened.

        Raises:
            CheckpointError: when one did.
        """
        for shard in self.shards.values():
            shard.check_unchanged()

    def close(self) -> None:
        """Closes all files."""
        for shard in self.shards.values():
            shard.close()


def read_index(path: Path) -> Mapping[str, str]:
    """Reads which file holds each tensor from an index such as model.safetensors.index.json.

    Raises:
        CheckpointError: when it is not valid JSON, has no weight_map, or names anything but plain file names.
    """
    found = parse_json(read_text_file(path, LARGEST_HEADER), str(path), "the index")
    weight_map = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: expected a weight_map from tensor names to file names")
    for name, filename in weight_map.items():
        if not isinstance(filename, str) or not _plain(filename):
            raise CheckpointError(
                f"{path}: tensor {name!a:.200}: expected the plain name of a file here, found {filename!a:.200}"
            )
    return weight_map


def _plain(filename: str) -> bool:
    return Path(filename).name == filename and filename not in ("", "..") and printable(filename)


def check_index(path: Path, weight_map: Mapping[str, str], source: ShardedFolder) -> None:
    """Checks that an index and the files it names agree on every tensor.

    Raises:
        CheckpointError: when one of them has a tensor that the other lacks, or the index names the wrong file.
    """
    for name, filename in weight_map.items():
        if name not in source.header:
            hint = nearest(name, source.shards[filename].header)
            raise CheckpointError(f"{path}: tensor {name!a:.200} is not in {filename}, where the index says{hint}")
        if source.holder(name) != filename:
            raise CheckpointError(
                f"{path}: tensor '{name}' is in {source.holder(name)}, not in {filename}, where the index says"
            )
    for name in source.header:
        if name not in weight_map:
            raise CheckpointError(f"{path}: tensor '{name}' of {source.holder(name)} is missing from the index")


def shard_path(folder: Path, filename: str) -> Path:
    """Returns the path of a weight file of `folder`, which may be a link only into a hub cache's blobs.

    Raises:
        CheckpointError: when the file is missing, or a link leads out of the folder.
    """
    path = folder / filename
    try:
        there = path.is_file()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be looked up: {error.strerror}") from error
    if not there:
        raise CheckpointError(f"{path}: no such file; the checkpoint is incomplete")
    real, home = path.resolve(), folder.resolve()
    # A hub cache keeps models--x/snapshots/<commit>/<file> as links to models--x/blobs/<digest>.
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if real.is_relative_to(home) or real.is_relative_to(blobs):
        return path
    raise CheckpointError(f"{path}: is a link out of its folder, to {real}; name the folder the weights are in instead")


def find_index(folder: Path, suffix: str, main: str, remote: Collection[str] = ()) -> Path | None:
    """Returns the index of the `*<suffix>` files of `folder`, or None; `main` is the unsharded file's usual name.

    `remote` are files that belong to the folder and are not in it yet.

    Raises:
        CheckpointError: when there are several, or one beside a `main` file that it does not list.
    """
    indexes = sorted(folder.glob(f"*{suffix}.index.json"))
    preferred = folder / f"{main}.index.json"
    if preferred in indexes:
        indexes = [preferred]
    if len(indexes) > 1:
        raise CheckpointError(f"{folder}: expected one index, found {', '.join(path.name for path in indexes)}")
    if indexes and (main in remote or (folder / main).exists()) and main not in read_index(indexes[0]).values():
        raise CheckpointError(
            f"{folder}: has both {main} and {indexes[0].name}, which does not list it; remove the stale one"
        )
    return indexes[0] if indexes else None


def unindexed(folder: Path, suffix: str, main: str, remote: Collection[str] = ()) -> list[str]:
    """Returns the weight files of a folder without an index: `main` if it is there, else all `*<suffix>` files.

    `remote` are files that belong to the folder and are not in it yet.

    Raises:
        CheckpointError: when the files' own numbers say that one is missing.
    """
    if main in remote or (folder / main).exists():
        return [main]
    found = {path.name for path in folder.glob(f"*{suffix}")} | set(remote)
    names = sorted(name for name in found if not name.startswith("adapter_model."))
    for name in names:
        numbered = _NUMBERED.fullmatch(name)
        if numbered is None:
            continue
        total, width = int(numbered[3]), len(numbered[2])
        for number in range(1, min(total, len(names) + 1) + 1):
            expected = f"{numbered[1]}-{number:0{width}d}-of-{numbered[3]}{suffix}"
            if expected not in names:
                raise CheckpointError(f"{folder / expected}: no such file, though {name} says there are {total}")
    return names


@dataclass(frozen=True)
class Shards:
    """The weight files of a folder by name, sorted; and the index that lists them, if there is one."""

    files: tuple[str, ...]
    index: Path | None
    weight_map: Mapping[str, str]


def list_shards(folder: Path, remote: Collection[str] = ()) -> Shards:
    """Lists the safetensors files that are a model folder's weights; `remote` are files that are not in it yet.

    With an index, its files and no others. Without one, model.safetensors, or else every safetensors file but an
    adapter's.

    Raises:
        CheckpointError: when the index breaks a rule, or a numbered file is missing.
    """
    index = find_index(folder, _SUFFIX, _MAIN, remote)
    if index is None:
        return Shards(tuple(unindexed(folder, _SUFFIX, _MAIN, remote)), None, {})
    weight_map = read_index(index)
    return Shards(tuple(sorted(set(weight_map.values()))), index, weight_map)


def open_shards(folder: Path, remote: Mapping[str, Source] = _NONE) -> Source | None:
    """Opens the safetensors files of a model folder as one source, or returns None when it has none.

    Args:
        folder: the model's folder; `list_shards` says which files are meant.
        remote: files that belong to the folder and are not in it yet, open from elsewhere.

    Raises:
        CheckpointError: when a file or the index breaks a rule.
    """
    listed = list_shards(folder, remote)
    if not listed.files:
        return None
    shards: dict[str, Source] = {}
    try:
        for filename in listed.files:
            away = remote.get(filename)
            shards[filename] = SafetensorsFile(shard_path(folder, filename)) if away is None else away
        source = ShardedFolder(folder, shards)
        if listed.index:
            check_index(listed.index, listed.weight_map, source)
    except BaseException:
        for shard in shards.values():
            shard.close()
        raise
    return source
