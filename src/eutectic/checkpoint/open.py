"""From what the user wrote to an open checkpoint: a file, a folder, or a hub model at a revision."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from eutectic.checkpoint.files import read_text_file
from eutectic.checkpoint.header import LARGEST_HEADER, parse_json
from eutectic.checkpoint.hub import Snapshot, fetch
from eutectic.checkpoint.pickled import SUFFIXES, PickledFile, open_pickles, refuse_pickle
from eutectic.checkpoint.remote import HubSource
from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.checkpoint.sharded import open_shards
from eutectic.checkpoint.source import Checkpoint, Source
from eutectic.errors import CheckpointError, RecipeError

ADAPTER_CONFIG = "adapter_config.json"
_FACTOR = re.compile(r"\.(lora_down|lora_up|lora_A|hada_w1_a|lokr_w1(_a)?)(\.|$)")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Reference:
    """A model as the user names it: `path`, `org/name`, `org/name@revision`, any of them with `+adapter`.

    Attributes:
        path: a local path or a hub name.
        revision: a branch, tag or commit of the hub model.
        adapter: the reference of the adapter on top; it may have a revision of its own.
    """

    path: str
    revision: str | None = None
    adapter: str | None = None

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{self.path}{revision}" + ("" if self.adapter is None else f"+{self.adapter}")


@dataclass(frozen=True)
class Located:
    """Where a reference's files are on this machine.

    Attributes:
        path: the file or folder.
        revision: the commit they are, if they came from a hub.
        snapshot: the hub model they are of, which also says what is still to be downloaded.
    """

    path: Path
    revision: str | None = None
    snapshot: Snapshot | None = None


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _single(text: str) -> tuple[str, str | None] | None:
    """Reads `path` or `name@revision`, or returns None when the text is neither."""
    if _exists(text):
        return text, None
    path, at, revision = text.partition("@")
    if not path or "+" in text or "@" in revision or (at and not revision):
        return None
    return path, revision or None


def parse_reference(text: str) -> Reference:
    """Reads a model reference; an existing local path may contain '+' and '@', anything else only as separators.

    Raises:
        RecipeError: when the text has more separators than the grammar, or can be read in two ways.
    """
    text = text.strip()
    whole = _single(text)
    if whole is not None:
        return Reference(*whole)
    found: list[Reference] = []
    for plus in (place for place, character in enumerate(text) if character == "+"):
        base, adapter = _single(text[:plus]), _single(text[plus + 1 :])
        if base is not None and adapter is not None:
            found.append(Reference(*base, text[plus + 1 :]))
    if len(found) != 1:
        problem = "can be read in two ways" if found else "is not a model reference"
        raise RecipeError(f"{text!r} {problem}; expected path, org/name@revision, or one of these + an adapter")
    return found[0]


def locate(reference: Reference, *, pickles: bool = False, offline: bool = False) -> Located:
    """Finds the file or folder a reference names, which is a hub model if it is no local path.

    Of a hub model that is not cached all but the weights is downloaded, and an adapter's weights too: they are small.
    The reference's adapter is not looked at: locate it with `parse_reference(reference.adapter)`.

    Raises:
        CheckpointError: when there is no such model.
    """
    if _exists(reference.path):
        if reference.revision is not None:
            raise CheckpointError(f"{reference.path}: is a local path, which has no revision '{reference.revision}'")
        return Located(Path(reference.path).expanduser())
    if _HUB_NAME.fullmatch(reference.path) is None:
        raise CheckpointError(f"{reference.path}: no such file or folder, and not the name of a hub model (org/name)")
    snapshot = fetch(reference.path, reference.revision, pickles=pickles, offline=offline)
    return Located(snapshot.folder, snapshot.commit, snapshot)


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter, not a model."""
    return (path / ADAPTER_CONFIG).is_file()


def is_adapter_file(path: Path) -> bool:
    """Whether a file holds low-rank factors, by the names of its tensors."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    file = SafetensorsFile(path)
    try:
        return any(_FACTOR.search(name) for name in file.header)
    finally:
        file.close()


def open_source(path: Path, *, pickles: bool = False) -> Source:
    """Opens the weights of a local file or folder; headers only.

    Raises:
        CheckpointError: when there are none, they break a rule of their format, or are pickles nobody asked for.
    """
    if path.is_dir():
        return _open_folder(path, pickles)
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    if path.suffix in SUFFIXES:
        if not pickles:
            raise refuse_pickle(path)
        return PickledFile(path)
    known = ", ".join((".safetensors", *SUFFIXES))
    raise CheckpointError(f"{path}: expected a folder or a file ending in one of {known}")


def _open_folder(folder: Path, pickles: bool) -> Source:
    source = open_shards(folder)
    if source is not None:
        return source
    pickled = sorted(folder.glob("pytorch_model*.bin*"))
    if pickled and not pickles:
        raise refuse_pickle(pickled[0])
    source = open_pickles(folder) if pickled else None
    if source is not None:
        return source
    if is_adapter(folder):
        raise CheckpointError(f"{folder}: expected a model, found only an adapter; write base+{folder.name} for both")
    raise CheckpointError(f"{folder}: expected weights (*.safetensors), found none")


def read_config(folder: Path) -> Mapping[str, Any]:
    """Returns the parsed config.json of a folder; empty when it has none.

    Raises:
        CheckpointError: when it is not a JSON object.
    """
    path = folder / "config.json"
    if not path.exists():
        return {}
    found = parse_json(read_text_file(path, LARGEST_HEADER), str(path), "the file", strict=False)
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def open_checkpoint(reference: str, *, pickles: bool = False, offline: bool = False) -> Checkpoint:
    """Opens a model with its config; reads headers, those of a hub model that is not cached from the hub.

    Adapters are opened by the layer above, which knows what they mean.

    Raises:
        CheckpointError: when there is no such model or it is broken.
        RecipeError: when the reference does not follow the grammar, or names an adapter.
    """
    parsed = parse_reference(reference)
    if parsed.adapter is not None:
        raise RecipeError(f"{reference}: expected one model without an adapter")
    located = locate(parsed, pickles=pickles, offline=offline)
    return open_located(reference, located, pickles=pickles)


def open_located(reference: str, located: Located, *, pickles: bool = False) -> Checkpoint:
    """Opens the model whose files were located; `reference` is what messages and receipts call it.

    The weights of a hub model that is not cached cannot be read before `materialise` has downloaded them.

    Raises:
        CheckpointError: when it is broken.
    """
    folder = located.path if located.path.is_dir() else None
    config = read_config(folder) if folder else {}
    if located.snapshot is None:
        return Checkpoint(reference, open_source(located.path, pickles=pickles), folder, config, located.revision)
    hub = HubSource(located.snapshot, partial(open_source, located.path, pickles=pickles))
    return Checkpoint(reference, hub, folder, config, located.revision, hub=(hub,))
