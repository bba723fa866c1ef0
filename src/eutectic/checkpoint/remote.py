"""Hub models as sources: asked by their headers alone, read when their files have been downloaded."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from eutectic.checkpoint.header import parse_header
from eutectic.checkpoint.hub import Snapshot, check_room, download, read_range
from eutectic.checkpoint.ranges import find
from eutectic.checkpoint.safetensors import read_header
from eutectic.checkpoint.sharded import list_shards, open_shards
from eutectic.checkpoint.source import Buffer, Source
from eutectic.checkpoint.spec import TensorSpec
from eutectic.errors import CheckpointError
from eutectic.quantities import format_bytes

#: Bytes of a file that are asked for at first; few headers are longer.
_FIRST = 1 << 16
#: Headers asked for at once.
_AT_ONCE = 8


class RemoteFile:
    """A safetensors file on the hub, of which only the header is here, checked by every rule of the format.

    Args:
        snapshot: the model it is of.
        filename: its name there.

    Raises:
        CheckpointError: when the hub does not give the header, or it breaks a rule.
    """

    def __init__(self, snapshot: Snapshot, filename: str) -> None:
        self.snapshot, self.filename = snapshot, filename
        self.path = Path(f"{snapshot}") / filename
        self.size = snapshot.absent[filename]
        self._first = read_range(snapshot, filename, 0, min(self.size, _FIRST)) if self.size else b""
        raw = read_header(self)
        self._header = parse_header(raw[8:], self.size - len(raw), self.name).tensors
        self._first = b""

    def read_exactly(self, out: memoryview, offset: int) -> None:
        """Fills `out` with bytes of the file from `offset` on.

        Raises:
            CheckpointError: when the hub does not give them.
        """
        stop = offset + len(out)
        if stop <= len(self._first):
            out[:] = self._first[offset:stop]
        else:
            out[:] = read_range(self.snapshot, self.filename, offset, stop)

    @property
    def name(self) -> str:
        """Model, commit and file."""
        return str(self.path)

    @property
    def header(self) -> Mapping[str, TensorSpec]:
        """Every tensor by name, in the order of their bytes."""
        return self._header

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Refuses.

        Raises:
            CheckpointError: always.
        """
        raise CheckpointError(
            f"{self.name}: tensor '{name}' is not downloaded yet ({format_bytes(self.size)}); run the plan, which "
            "downloads what it needs"
        )

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Does nothing: hints download nothing."""

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to produce the whole tensor once, when it is there: its size."""
        return find(self.header, name, self.name).nbytes

    def fingerprint(self) -> str:
        """A digest of model, commit and file."""
        return hashlib.sha256(f"{self.snapshot.repository} {self.snapshot.commit} {self.filename}".encode()).hexdigest()

    def check_unchanged(self) -> None:
        """Does nothing: a commit does not change."""

    def close(self) -> None:
        """Does nothing: nothing is open."""


class HubSource:
    """The weights of a hub model at a commit: headers at once, tensors after `materialise`.

    Args:
        snapshot: the model, and what of it is not in the cache.
        open_local: opens its folder, when everything is there.

    Raises:
        CheckpointError: when a header cannot be had or breaks a rule.
    """

    def __init__(self, snapshot: Snapshot, open_local: Callable[[], Source]) -> None:
        self.snapshot = snapshot
        self._open_local = open_local
        #: Size in bytes of each file that is still to be downloaded.
        self.absent: Mapping[str, int] = {}
        if not snapshot.absent:
            self._source = open_local()
            return
        names = [name for name in list_shards(snapshot.folder, snapshot.absent).files if name in snapshot.absent]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            files = dict(zip(names, pool.map(lambda name: RemoteFile(snapshot, name), names), strict=True))
        source = open_shards(snapshot.folder, files)
        assert source is not None  # there is a file that is absent
        self._source = source
        self.absent = {name: file.size for name, file in files.items()}

    @property
    def name(self) -> str:
        """The folder in the cache."""
        return self._source.name

    @property
    def header(self) -> Mapping[str, TensorSpec]:
        """Every tensor by name, file by file, in stored order."""
        return self._source.header

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with the bytes of elements `start, start + 1, ...` of tensor `name`.

        Raises:
            CheckpointError: when it is not downloaded yet, or cannot be read.
        """
        self._source.read_into(name, start, out)

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Tells the operating system that elements `start..stop` of tensor `name` are read soon."""
        self._source.will_need(name, start, stop)

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to produce the whole tensor once."""
        return self._source.read_cost(name)

    def fingerprint(self) -> str:
        """A digest of the model's name, its commit, which stands for every byte, and its tensors.

        It is the same before and after the download and on every machine, so that a plan made of headers is the
        plan that an interrupted run resumes.
        """
        digest = hashlib.sha256(f"{self.snapshot.repository} {self.snapshot.commit}".encode())
        for spec in self.header.values():
            digest.update(f"\n{spec.name}\0{spec.dtype} {list(spec.shape)}".encode())
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Checks that no file changed since it was opened.

        Raises:
            CheckpointError: when one did.
        """
        self._source.check_unchanged()

    def close(self) -> None:
        """Closes all files."""
        self._source.close()

    def attach(self) -> None:
        """Opens the files that were downloaded in place of the headers.

        Raises:
            CheckpointError: when they are not what their headers said.
        """
        found = self._open_local()
        if list(found.header.items()) != list(self.header.items()):
            found.close()
            raise CheckpointError(
                f"{self.snapshot}: the downloaded files hold other tensors than was planned; plan again"
            )
        self._source.close()
        self._source, self.absent = found, {}


def missing(sources: Iterable[HubSource]) -> list[tuple[Snapshot, str, int]]:
    """Returns model, name and size in bytes of each file that is to be downloaded, each once."""
    found: dict[tuple[str, str, str], tuple[Snapshot, str, int]] = {}
    for source in sources:
        own = source.snapshot
        for name, size in source.absent.items():
            found.setdefault((own.repository, own.commit, name), (own, name, size))
    return list(found.values())


def materialise(sources: Iterable[HubSource], tell: Callable[[int, int], None]) -> None:
    """Downloads what is missing of hub models, at the commits they were opened at, and opens it.

    A file that is whole stays in the cache whatever happens to the next one.

    Args:
        sources: the models; those that are here are left alone.
        tell: called with the bytes that have arrived, and all that will; from several threads.

    Raises:
        CheckpointError: when the hub does not give a file, or it is not what its header said.
        OutputError: when there is no room for them.
    """
    waiting = [source for source in sources if source.absent]
    files = missing(waiting)
    total, done = sum(size for _, _, size in files), 0

    def arrived(size: int, now: int) -> None:
        tell(done + min(now, size), total)

    if files:
        check_room(files[0][0].folder, total)  # one cache, one disk
    for snapshot, name, size in files:
        download(snapshot, name, partial(arrived, size))
        done += size
        tell(done, total)
    for source in waiting:
        source.attach()
