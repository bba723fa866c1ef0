"""mergekit's recipe, read as mergekit 0.1.5 reads it: which inputs feed an output tensor, and which settings it gets.

What changes numbers and is easy to miss:
- a setting is looked up at the source, then the slice, then the top; the first scope that yields a value wins;
- filters are plain substrings; per-input settings match the name in the *input*, shared ones the name in the *output*;
- a gradient's position is the block's index in its *slice*; a slice of one block sits at 1;
- everything outside the blocks sits at 0, so the final norm and the head take a gradient's first value;
- embeddings come from the first slice's inputs, final norm and head from the last one's.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from safetensors import safe_open

BLOCK = re.compile(r"^(?P<stack>.*?\blayers)\.(?P<block>\d+)\.(?P<rest>.*)$")
BEFORE_THE_BLOCKS = ("embed_tokens",)


@dataclass(frozen=True)
class Model:
    """One input's header: shape and dtype of every tensor, and how many blocks it has."""

    path: str
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    blocks: int


@dataclass(frozen=True)
class Feed:
    """One input of an output tensor: the model, its name there, and the settings given at the source."""

    model: str
    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """One output tensor: its inputs, its position for gradients, and the settings of its slice and of the recipe."""

    name: str
    feeds: tuple[Feed, ...]
    position: float
    scopes: tuple[Mapping[str, Any], ...]

    def shared(self, key: str) -> Any:
        """Evaluates a setting that belongs to the output tensor; None when nobody gives it."""
        return _first(key, self.scopes, self.name, self.position)

    def of(self, feed: Feed, key: str) -> Any:
        """Evaluates a setting that belongs to one input; None when nobody gives it."""
        return _first(key, (feed.settings, *self.scopes), feed.name, self.position)


@dataclass(frozen=True)
class Source:
    """A model's blocks [start, stop) in a slice."""

    model: str
    start: int
    stop: int
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Slice:
    """Blocks of equal number from several models."""

    sources: tuple[Source, ...]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Config:
    """A whole recipe with the headers it speaks of."""

    method: str
    base: str | None
    slices: tuple[Slice, ...]
    settings: Mapping[str, Any]
    models: Mapping[str, Model]
    dtype: str | None
    out_dtype: str | None
    whole: bool

    def targets(self) -> list[Target]:
        """Lists every output tensor in no particular order."""
        first, last = self.slices[0], self.slices[-1]
        outside = {name for slice_ in (first, last) for s in slice_.sources for name in self._outside(s.model)}
        found = []
        for name in sorted(outside):
            slice_ = first if any(word in name for word in BEFORE_THE_BLOCKS) else last
            feeds = tuple(Feed(s.model, name, s.settings) for s in slice_.sources)
            found.append(Target(name, feeds, 0.0, (slice_.settings, self.settings)))
        before = 0
        for slice_ in self.slices:
            lengths = {source.stop - source.start for source in slice_.sources}
            if len(lengths) != 1:
                raise ValueError(f"the sources of a slice have the same number of blocks; found {sorted(lengths)}")
            length = lengths.pop()
            for index in range(length):
                found += self._block(slice_, index, length, before + index)
            before += length
        return found

    @property
    def blocks(self) -> int:
        """The number of blocks of the result."""
        return sum(slice_.sources[0].stop - slice_.sources[0].start for slice_ in self.slices)

    def _outside(self, model: str) -> list[str]:
        return [name for name in self.models[model].shapes if not BLOCK.match(name)]

    def _block(self, slice_: Slice, index: int, length: int, target: int) -> list[Target]:
        position = index / (length - 1) if length > 1 else 1.0
        lead = slice_.sources[0]
        found = []
        for name in self.models[lead.model].shapes:
            place = BLOCK.match(name)
            if not place or int(place["block"]) != lead.start + index:
                continue
            stack, rest = place["stack"], place["rest"]
            feeds = tuple(Feed(s.model, f"{stack}.{s.start + index}.{rest}", s.settings) for s in slice_.sources)
            found.append(Target(f"{stack}.{target}.{rest}", feeds, position, (slice_.settings, self.settings)))
        return found


def read_config(folder: Path) -> Config:
    """Reads `config.yml` and the headers of every model it names, with paths relative to the folder."""
    raw = YAML(typ="safe").load((folder / "config.yml").read_text())
    base = raw.get("base_model")
    listed = raw.get("models") or [source for part in raw["slices"] for source in part["sources"]]
    names = dict.fromkeys([entry["model"] for entry in listed] + ([base] if base else []))
    models = {name: _read_model(folder / name) for name in names}
    settings = raw.get("parameters") or {}
    if "models" in raw:
        entries = list(raw["models"])
        if base and base not in [entry["model"] for entry in entries]:
            entries.append({"model": base})
        whole = tuple(
            Source(entry["model"], 0, models[entry["model"]].blocks, entry.get("parameters") or {}) for entry in entries
        )
        slices: tuple[Slice, ...] = (Slice(whole, {}),)
    else:
        slices = tuple(_read_slice(part) for part in raw["slices"])
    dtypes = (_plain(raw.get("dtype")), _plain(raw.get("out_dtype")))
    return Config(raw["merge_method"], base, slices, settings, models, *dtypes, whole="models" in raw)


def _read_slice(part: Mapping[str, Any]) -> Slice:
    sources = tuple(
        Source(entry["model"], start, stop, entry.get("parameters") or {})
        for entry in part["sources"]
        for start, stop in [entry["layer_range"]]
    )
    return Slice(sources, part.get("parameters") or {})


def _read_model(folder: Path) -> Model:
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as handle:
            for name in handle.keys():  # noqa: SIM118 - not a mapping
                view = handle.get_slice(name)
                shapes[name], dtypes[name] = tuple(view.get_shape()), view.get_dtype()
    config = json.loads((folder / "config.json").read_text())
    return Model(str(folder), shapes, dtypes, config["num_hidden_layers"])


def _plain(dtype: str | None) -> str | None:
    return dtype.removeprefix("torch.") if dtype else None


def _first(key: str, scopes: Sequence[Mapping[str, Any]], name: str, position: float) -> Any:
    for scope in scopes:
        value = _evaluate(scope[key], name, position) if key in scope else None
        if value is not None:
            return value
    return None


def _evaluate(setting: Any, name: str, position: float) -> Any:
    """Evaluates a scalar, a gradient, or filters over either, at one tensor; None when no filter matches."""
    conditions = [setting] if isinstance(setting, Mapping) else setting
    if isinstance(conditions, list) and conditions and isinstance(conditions[0], Mapping):
        for condition in conditions:
            wanted = condition.get("filter")
            if wanted is None or wanted == "*" or wanted in name:
                return _gradient(condition["value"], position)
        return None
    return _gradient(setting, position)


def _gradient(values: Any, position: float) -> Any:
    if not isinstance(values, list):
        return values
    if not values:
        return None
    at = position * (len(values) - 1)
    low = int(at)
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return values[low]
    high = min(low + 1, len(values) - 1)
    return values[low] + (at - low) * (values[high] - values[low])
