"""What a model folder holds beside its weights: config, tokenizer, chat template, processors, licences.

Everything is planned before it is written, so that a plan can list it. Weights, adapters and code are never copied.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from eutectic.checkpoint.config_changes import ConfigChanges, changed_config, renumber_tokens
from eutectic.errors import CheckpointError, OutputError

#: What eutectic itself leaves in an output: what went in and how, and the recipe.
RECEIPT = "eutectic_receipt.json"
RECIPE = "eutectic_recipe.yaml"

_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "vocab.bpe",
    "encoder.json",
    "normalizer.json",
    "source.spm",
    "target.spm",
    "tekken.json",
    "*.model",
    "*.tiktoken",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
_MODEL = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "feature_extractor_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
)
_LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "USE_POLICY*")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")


@dataclass(frozen=True)
class Sidecar:
    """One file of the output folder, or one that is left out.

    Attributes:
        name: its path in the folder, with forward slashes.
        why: what it is for and whose it is, or why it is left out.
        content: its bytes, when it is built.
        source: the file to copy, when it is copied.
    """

    name: str
    why: str
    content: bytes | None = None
    source: Path | None = None

    @property
    def left_out(self) -> bool:
        """Whether it is only named, not written."""
        return self.content is None and self.source is None


@dataclass(frozen=True)
class _Folder:
    """The files of a model folder, by name."""

    path: Path
    files: Mapping[str, Path] = field(default_factory=dict)

    def like(self, patterns: Iterable[str]) -> list[str]:
        """Returns the names that match one of the patterns, which are of as many folders as the name, sorted."""
        return [name for name in self.files if any(_alike(PurePosixPath(name), pattern) for pattern in patterns)]


def _alike(name: PurePosixPath, pattern: str) -> bool:
    return len(name.parts) == 1 + pattern.count("/") and name.match(pattern)


def plan_sidecars(
    donor: Path | None,
    tokenizer_donor: Path | None = None,
    config_changes: ConfigChanges | None = None,
    parents: Mapping[str, Path] | None = None,
    made: Mapping[str, bytes] | None = None,
    stale: Iterable[str] = (),
) -> tuple[Sidecar, ...]:
    """Lists what a complete output folder needs beside its weights, and what of the donor is left out and why.

    Args:
        donor: the folder whose config and processors the output takes; None when the donor is a bare file.
        tokenizer_donor: the folder whose tokenizer and chat template it takes; the donor if None.
        config_changes: what config.json must say differently.
        parents: folders of all merged models and the base by reference; their licence files go to `licenses/`.
        made: tokenizer files that are written anew, in place of the donor's.
        stale: patterns of tokenizer files that those make wrong, which are left out.

    Raises:
        CheckpointError: when a file of the donor cannot be read, or names a path outside its folder.
        MismatchError: when the config cannot express the changes.
    """
    found: dict[str, Sidecar] = {}
    home = _read(donor) if donor else None
    words = _read(tokenizer_donor) if tokenizer_donor else home
    if home:
        if "config.json" in home.files:
            found["config.json"] = _config(home, config_changes or ConfigChanges())
        found |= _copies(home, home.like(_MODEL), "of the model")
        found |= _generation(home, config_changes or ConfigChanges())
        found |= _modules(home)
    if words:
        wrong = words.like(stale)
        kept = [name for name in words.like(_TOKENIZER) if name not in wrong]
        found |= _copies(words, kept, "tokenizer")
        found |= {name: Sidecar(name, "contradicts the new tokenizer files") for name in wrong}
    for name, content in (made or {}).items():
        found[name] = Sidecar(name, "tokenizer, written for the output", content=content)
    for reference, folder in (parents or {}).items():
        found |= _licences(reference, folder)
    if home:
        found |= _left_out(home, found)
    return tuple(found.values())


def write_sidecars(folder: Path, sidecars: Iterable[Sidecar]) -> tuple[Path, ...]:
    """Writes the sidecars that are not left out as plain files, synced to disk, and returns their paths.

    Raises:
        OutputError: when a file cannot be written.
        CheckpointError: when a file to copy is gone.
    """
    written: list[Path] = []
    for sidecar in sidecars:
        if sidecar.left_out:
            continue
        path = folder / _inside(sidecar.name, folder)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as out:
                if sidecar.source is not None:
                    with _open(sidecar.source) as source:
                        shutil.copyfileobj(source, out)
                else:
                    out.write(sidecar.content or b"")
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be written: {error.strerror or error}; make room or choose another folder"
            ) from error
        written.append(path)
    return tuple(written)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise CheckpointError(
            f"{path}: expected a file to copy, found {error.strerror or error}; restore it"
        ) from error


def _read(folder: Path) -> _Folder:
    """Lists the files of a folder and of its folders, one level deep; links are followed when they are read."""
    files: dict[str, Path] = {}
    try:
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                inner = sorted(path.iterdir()) if not path.name.startswith(".") else []
                files |= {f"{path.name}/{inside.name}": inside for inside in inner if not inside.is_dir()}
            else:
                files[path.name] = path
    except OSError as error:
        raise CheckpointError(f"{folder}: expected a model folder, found {error.strerror or error}") from error
    return _Folder(folder, files)


def _copies(home: _Folder, names: Iterable[str], what: str) -> dict[str, Sidecar]:
    return {name: _copy(home, name, f"{what}, copied from {home.path}") for name in names}


def _copy(home: _Folder, name: str, why: str) -> Sidecar:
    path = home.files[name]
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a file, found a link to nothing; download the model again")
    return Sidecar(name, why, source=path)


def _config(home: _Folder, changes: ConfigChanges) -> Sidecar:
    path = home.files["config.json"]
    config, said = changed_config(_json(path), changes, str(path))
    content = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    return Sidecar("config.json", f"of {home.path}{', with ' + ', '.join(said) if said else ''}", content=content)


def _generation(home: _Folder, changes: ConfigChanges) -> dict[str, Sidecar]:
    """Returns generation_config.json with the new numbers of its tokens, where they change."""
    path = home.files.get("generation_config.json")
    if path is None or not (changes.numbers or changes.named):
        return {}
    config = _json(path)
    said = renumber_tokens(config, changes) if isinstance(config, dict) else []
    if not said:
        return {}
    content = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    return {path.name: Sidecar(path.name, f"of {home.path}, with {', '.join(said)}", content=content)}


def _modules(home: _Folder) -> dict[str, Sidecar]:
    """Returns the configs of the folders that sentence-transformers' modules.json names (`1_Pooling` ...)."""
    if "modules.json" not in home.files:
        return {}
    listed = _json(home.files["modules.json"])
    found: dict[str, Sidecar] = {}
    for entry in listed if isinstance(listed, list) else []:
        place = entry.get("path") if isinstance(entry, dict) else None
        if isinstance(place, str) and place:
            prefix = f"{_inside(place, home.path)}/"
            names = [name for name in home.files if name.startswith(prefix)]
            found |= _copies(
                home, (name for name in names if not name.endswith(_WEIGHTS)), "sentence-transformers module"
            )
    return {name: sidecar for name, sidecar in found.items() if not name.endswith(".py")}


def _licences(reference: str, folder: Path) -> dict[str, Sidecar]:
    home = _read(folder)
    owner = re.sub(r"[^\w.+@-]+", "--", reference).strip("-.") or "parent"
    found = [(f"licenses/{owner}/{name}", name) for name in home.like(_LICENCES)]
    return {path: replace(_copy(home, name, f"licence of {reference}"), name=path) for path, name in found}


def _left_out(home: _Folder, found: Mapping[str, Sidecar]) -> dict[str, Sidecar]:
    """Names what of the donor is not in the output; weights and repository files go without saying."""
    left: dict[str, Sidecar] = {}
    taken = {sidecar.source for sidecar in found.values()}
    for name, path in home.files.items():
        if name in found or path in taken:
            continue
        if name.endswith(".py"):
            left[name] = Sidecar(name, "code of the donor is not copied; read it, and copy it yourself if you trust it")
        elif "/" in name and name.endswith(_WEIGHTS) and f"{name.partition('/')[0]}/config.json" in found:
            left[name] = Sidecar(
                name, "weights outside the merged checkpoint are not merged; copy them yourself if they fit"
            )
        elif name.startswith("adapter_"):
            left[name] = Sidecar(name, "an adapter is no part of a merged model")
    return left


def _inside(name: str, folder: Path) -> str:
    """Returns a relative path that stays in its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise CheckpointError(f"{folder}: expected paths inside the folder, found {name!r}; correct or remove it")
    return str(path)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, found {error}; replace the file") from error
