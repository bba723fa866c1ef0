"""The Hugging Face hub and its cache: where a model's files lie, what is not there yet, and how to get it.

The one place that imports huggingface_hub, inside its functions: local models are opened without it.
"""

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from eutectic.checkpoint.pickled import refuse_pickle
from eutectic.checkpoint.sharded import find_index, read_index
from eutectic.errors import CheckpointError, OutputError
from eutectic.quantities import format_bytes

#: What a plan needs of a model: all but its weights. Adapters are small, and here too.
_NEEDED = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.spm", "adapter_model.safetensors")
#: What its card is written from, and the licences that go with the output.
_WELCOME = ("README.md", "LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "USE_POLICY*")
#: Copies of the weights and files of other formats, which can double the download.
_UNWANTED = ("*/*.safetensors", "consolidated*.safetensors", "onnx/*", "openvino/*", "coreml/*", "gguf/*")
_MAIN = "model.safetensors"
_PICKLES = "pytorch_model*.bin"
#: Seconds without a byte after which a request has failed, and between two reports of a download.
_PATIENCE, _EVERY = 30.0, 0.2


@dataclass(frozen=True)
class Snapshot:
    """A hub model at one commit.

    Attributes:
        repository: its name on the hub.
        commit: all of it.
        folder: its folder in the hub's cache; everything but the `absent` files is there.
        absent: size in bytes of every weight file that is not there, by name.
    """

    repository: str
    commit: str
    folder: Path
    absent: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.repository}@{self.commit[:12]}"


def fetch(repository: str, revision: str | None, *, pickles: bool = False, offline: bool = False) -> Snapshot:
    """Finds a hub model in the local cache; what is not there is downloaded, except for safetensors weights.

    A cached copy is used as it is, without asking the hub whether its branch has moved on. Else the config, the
    tokenizer and their like are downloaded, and so are an adapter's weights, which are small, and pickles (if they
    are allowed and there is nothing else), whose headers cannot be read from afar.

    Raises:
        CheckpointError: when it is neither cached nor to be had.
    """
    named = repository if revision is None else f"{repository}@{revision}"
    folder, reason = _cached(repository, revision, pickles, named)
    if folder is not None:
        return Snapshot(repository, folder.name, folder)
    off = _switched_off(offline)
    if off:
        raise CheckpointError(
            f"{named}: {reason}, and downloads are off ({off}); run once online, or name a local folder"
        )
    try:
        folder = _snapshot(repository, revision, [*_NEEDED, *_WELCOME])
        sizes = _sizes(repository, folder.name)
    except Exception as error:  # the hub's client lets its HTTP library's own errors through
        raise CheckpointError(
            f"{named}: there is no local folder of this name, {reason}, and the hub did not give it: {_why(error)}"
        ) from error
    found = Snapshot(repository, folder.name, folder)
    weights = [name for name in sizes if _is_weights(name)]
    if not weights and "adapter_model.safetensors" not in sizes:
        _fetch_pickles(found, sizes, pickles)
    absent = {name: sizes[name] for name in weights if not (folder / name).exists()}
    return Snapshot(repository, folder.name, folder, absent)


def _snapshot(repository: str, revision: str | None, patterns: Sequence[str], *, local: bool = False) -> Path:
    import huggingface_hub

    with _quiet():
        return Path(
            huggingface_hub.snapshot_download(
                repository,
                revision=revision,
                local_files_only=local,
                allow_patterns=list(patterns),
                ignore_patterns=list(_UNWANTED),
            )
        )


def _cached(repository: str, revision: str | None, pickles: bool, named: str) -> tuple[Path | None, str]:
    """Returns the folder of a cached model that has all it needs, or None and what is wrong with it."""
    incomplete = "the cached copy is incomplete"
    try:
        folder = _snapshot(repository, revision, _NEEDED, local=True)
        index = find_index(folder, ".safetensors", _MAIN)
        if index is not None:
            whole = all((folder / name).exists() for name in read_index(index).values())
            return (folder, "") if whole else (None, incomplete)
        if (folder / _MAIN).exists():
            return folder, ""
        # Nothing here says which weights there should be, but the hub's list of files, if it was kept, does.
        patterns = ["*.safetensors", *([_PICKLES] if pickles else [])]
        _snapshot(repository, revision, patterns, local=True)
        if any(path.exists() for pattern in patterns for path in folder.glob(pattern)):
            return folder, ""
        return None, "the cached copy has no weights"
    except FileNotFoundError as error:
        return None, incomplete if hasattr(error, "snapshot_path") else "it is not in the cache"
    except ValueError as error:  # a name or revision that the hub could not have
        raise CheckpointError(f"{named}: is not a hub model: {error}") from error


def _switched_off(offline: bool) -> str | None:
    from huggingface_hub import constants

    if offline:
        return "offline was asked for"
    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else None


def _sizes(repository: str, commit: str) -> dict[str, int]:
    """Returns the size in bytes of every file of a model at a commit."""
    import huggingface_hub

    info = huggingface_hub.HfApi().model_info(repository, revision=commit, files_metadata=True, timeout=_PATIENCE)
    return {each.rfilename: each.size or 0 for each in info.siblings or ()}


def _is_weights(name: str) -> bool:
    if not name.endswith(".safetensors") or name.startswith("adapter_model."):
        return False
    return not any(fnmatch(name, pattern) for pattern in _UNWANTED)


def _fetch_pickles(snapshot: Snapshot, sizes: Mapping[str, int], pickles: bool) -> None:
    """Downloads the weights of a model that has only pickles, if they are allowed."""
    found = {name: size for name, size in sizes.items() if "/" not in name and fnmatch(name, _PICKLES)}
    if "adapter_model.bin" in sizes and not found:
        raise CheckpointError(
            f"{snapshot}: expected adapter_model.safetensors, found adapter_model.bin, a pickle; "
            "save the adapter as safetensors in PEFT"
        )
    if not found:
        raise CheckpointError(f"{snapshot}: expected weights (*.safetensors), found none on the hub")
    if not pickles:
        raise refuse_pickle(Path(f"{snapshot}") / min(found))
    check_room(snapshot.folder, sum(found.values()))
    for name in found:
        download(snapshot, name)


def read_range(snapshot: Snapshot, name: str, start: int, stop: int) -> bytes:
    """Returns bytes start..stop of a file on the hub, without storing them.

    Raises:
        CheckpointError: when the hub cannot be reached or gives anything else.
    """
    import huggingface_hub
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # it has them without saying so to mypy
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    url = huggingface_hub.hf_hub_url(snapshot.repository, name, revision=snapshot.commit)
    # A compressed answer's ranges would be ranges of something else.
    headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    raw = bytearray()
    try:
        with get_session().stream("GET", url, headers=headers, timeout=_PATIENCE) as response:
            hf_raise_for_status(response)
            if response.status_code == 206 or start == 0:  # a server without ranges begins at 0
                for piece in response.iter_bytes():
                    raw += piece
                    if len(raw) >= stop - start:
                        break
    except Exception as error:  # the hub's client lets its HTTP library's own errors through
        raise CheckpointError(f"{snapshot}/{name}: its header cannot be read from the hub: {_why(error)}") from error
    if len(raw) < stop - start:
        raise CheckpointError(
            f"{snapshot}/{name}: expected {stop - start} bytes from byte {start} on, found {len(raw)} (truncated?)"
        )
    return bytes(raw[: stop - start])


def download(snapshot: Snapshot, name: str, tell: Callable[[int], None] = lambda _: None) -> None:
    """Downloads one file into the cache, unless it is there; `tell` is given the bytes that have arrived.

    Raises:
        CheckpointError: when the hub does not give all of it.
    """
    import huggingface_hub

    try:
        with _quiet(), _told(snapshot.folder.parent.parent / "blobs", tell):
            huggingface_hub.hf_hub_download(snapshot.repository, name, revision=snapshot.commit)
    except Exception as error:  # the hub's client lets its HTTP library's own errors through
        raise CheckpointError(
            f"{snapshot}/{name}: cannot be downloaded: {_why(error)}; the same command resumes with this file"
        ) from error


def check_room(folder: Path, needed: int) -> None:
    """Checks that the disk a folder is on has room for a download of `needed` bytes.

    Raises:
        OutputError: when it has not.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder}: the models take {format_bytes(needed)} to download, and this disk has {format_bytes(free)} "
            "left; make room, or set HF_HOME to a folder on another disk"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the hub's own progress bars away: what is drawn, and whether, is the caller's to say."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # it has them without saying so to mypy
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    shown = not are_progress_bars_disabled()
    if shown:
        disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


@contextmanager
def _told(blobs: Path, tell: Callable[[int], None]) -> Iterator[None]:
    """Tells how large the newest unfinished file of a cache is, now and then: the hub's client has no other hook."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_EVERY):
            try:
                unfinished = [path.stat() for path in blobs.glob("*.incomplete")]
            except OSError:  # finished meanwhile
                continue
            if unfinished:
                tell(max(unfinished, key=lambda status: status.st_mtime_ns).st_size)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _why(error: Exception) -> str:
    """What went wrong, in a line."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "it is gated; accept its terms on the hub, and log in (hf auth login)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "it has no such model, or a private one; check the name, or log in (hf auth login)"
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has the model, but no such revision"
    lines = str(error).strip().splitlines()
    return f"{lines[0] if lines else type(error).__name__:.300}"
