"""The names in an adapter file: which module a factor belongs to, and which tensor of the base that module is."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from eutectic.errors import CheckpointError

#: What PEFT puts before every name.
PREFIX = "base_model.model."
_ADAPTER = r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?"
_FACTOR = re.compile(rf"(?P<module>.+)\.lora_(?P<part>A|B){_ADAPTER}\.(?P<leaf>weight|bias)")
_EMBEDDING = re.compile(rf"(?P<module>.+)\.lora_embedding_(?P<part>A|B){_ADAPTER}")
_MAGNITUDE = re.compile(rf"(?P<module>.+)\.lora_magnitude_vector{_ADAPTER}(?:\.weight)?")
_SAVED = re.compile(rf"(?P<module>.+)\.modules_to_save{_ADAPTER}\.(?P<leaf>[^.]+)")
#: Parts of names that other adapter families and other programs use.
_FOREIGN = re.compile(
    r"lora_down|lora_up|lora\.(?:down|up)|lora_(?:unet|te\d?)_|hada_w|lokr_w|ia3_l|vera_lambda|oft_|boft_|token_adapter"
    r"|trainable_tokens|lora_E\b|lora_diff|lora_arrow|original_module|prompt_embeddings|lora_"
)


@dataclass(frozen=True)
class Module:
    """The keys of one module's tensors in the adapter file.

    Attributes:
        name: the module, without PEFT's prefix.
        a: (r, d_in, ...); of an embedding (r, rows).
        b: (d_out, r, ...); of an embedding (columns, r).
        embedding: stored as an embedding's factors: the dense update is (B A) transposed.
        bias: the update of the module's bias before scaling, if it was trained as a part of B.
        magnitude: DoRA's magnitudes, one per output.
    """

    name: str
    a: str
    b: str
    embedding: bool = False
    bias: str | None = None
    magnitude: str | None = None


@dataclass(frozen=True)
class Names:
    """What an adapter file holds: factors by module, and tensors stored in full: their name -> key in the file."""

    modules: Mapping[str, Module]
    full: Mapping[str, str]


class Schemes:
    """The ways of naming tensors met in a file: with PEFT's prefix or not, and after which of several adapters."""

    def __init__(self) -> None:
        self._met: tuple[dict[bool, str], dict[str | None, str]] = ({}, {})

    def met(self, key: str, match: re.Match[str] | None) -> None:
        """Notes a key, and what was matched if it is a part of a module's update."""
        self._met[0].setdefault(key.startswith(PREFIX), key)
        if match:
            self._met[1].setdefault(match["adapter"], key)

    def check(self, where: str) -> None:
        """Checks that there is one.

        Raises:
            CheckpointError: when two are mixed.
        """
        for scheme in self._met:
            if len(scheme) > 1:
                first, second = list(scheme.values())[:2]
                raise CheckpointError(f"{where}: mixes two ways of naming tensors: '{first}' and '{second}'")


def read_names(keys: Iterable[str], where: str) -> Names:
    """Sorts the keys of an adapter file into factors and tensors stored in full.

    Raises:
        CheckpointError: when a factor lacks its partner, two naming schemes are mixed, or a key is not understood.
    """
    parts: dict[str, dict[str, str]] = {}
    full: dict[str, str] = {}
    schemes = Schemes()
    for key in keys:
        name = key.removeprefix(PREFIX)
        match, part = _part(name)
        if match is None and _FOREIGN.search(name):
            raise CheckpointError(
                f"{where}: tensor '{key}' is not one that PEFT's LoRA stores; convert the adapter first"
            )
        schemes.met(key, match)
        group, place = (parts.setdefault(match["module"], {}), part) if match else (full, full_name(name))
        if place in group:
            raise CheckpointError(f"{where}: tensors '{group[place]}' and '{key}' stand for the same thing")
        group[place] = key
    schemes.check(where)
    return Names({name: _module(name, found, where) for name, found in parts.items()}, full)


def _part(name: str) -> tuple[re.Match[str] | None, str]:
    """Returns how a key names a part of a module's update, and which part: A, B, eA, eB, bias or magnitude."""
    if match := _FACTOR.fullmatch(name):
        if match["leaf"] == "weight":
            return match, match["part"]
        return (match, "bias") if match["part"] == "B" else (None, "")
    if match := _EMBEDDING.fullmatch(name):
        return match, "e" + match["part"]
    if match := _MAGNITUDE.fullmatch(name):
        return match, "magnitude"
    return None, ""


def full_name(name: str) -> str:
    """Returns the name in the model of a tensor stored in full."""
    if match := _SAVED.fullmatch(name):
        name = f"{match['module']}.{match['leaf']}"
    return name.replace(".base_layer.", ".")


def _module(name: str, found: Mapping[str, str], where: str) -> Module:
    embedding = "eA" in found or "eB" in found
    keys = ("eA", "eB") if embedding else ("A", "B")
    if embedding and ("A" in found or "B" in found):
        raise CheckpointError(
            f"{where}: module '{name}' has factors of a layer and of an embedding; one kind is expected"
        )
    for key, other in (keys, keys[::-1]):
        if key not in found:
            have = found.get(other) or next(iter(found.values()))
            raise CheckpointError(f"{where}: module '{name}' has '{have}' but no lora_{key[-1]} to go with it")
    return Module(name, found[keys[0]], found[keys[1]], embedding, found.get("bias"), found.get("magnitude"))


class Resolver:
    """Finds the base's tensor for a name in an adapter, when one of them carries more or other leading parts.

    `bert.encoder.layer.0.output.dense.weight` is `encoder.layer.0.output.dense.weight` of a base saved without its
    head, `layers.0...` is `model.layers.0...`, and `model.language_model.layers.0...` may be
    `language_model.model.layers.0...`. The name itself comes first; then the longest ending that some tensor of the
    base shares. Parts before it that are numbers are never dropped or added: blocks do not stand in for each other.

    Args:
        names: every tensor of the base.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._by_leaf: dict[str, list[str]] = {}
        for name in sorted(self._names):
            self._by_leaf.setdefault(_ending(name, 2), []).append(name)

    def find(self, name: str, where: str) -> str | None:
        """Returns the base's tensor that the adapter calls `name`, or None when there is none.

        Raises:
            CheckpointError: when several would do equally well.
        """
        if name in self._names:
            return name
        parts = name.split(".")
        candidates = [c for leaf in (_ending(name, 2), _ending(name, 1)) for c in self._by_leaf.get(leaf, ())]
        for dropped in range(len(parts) - 1):
            if any(part.isdecimal() for part in parts[:dropped]):
                break
            rest = parts[dropped:]
            found = [c for c in candidates if _ends(c.split("."), rest)]
            # One remaining part before `weight` says too little to be found under some other parent.
            found = [c for c in found if c == ".".join(rest)] if dropped and len(rest) <= 2 else found
            if len(found) > 1:
                listed = ", ".join(f"'{c}'" for c in found[:5])
                raise CheckpointError(
                    f"{where}: '{name}' could be any of {listed} in the base; rename the adapter's tensors"
                )
            if found:
                return found[0]
        return None

    def alike(self, name: str) -> str:
        """Returns the end of a message that suggests base tensors of the same leaf name, or nothing."""
        alike = self._by_leaf.get(_ending(name, 2), [])
        return f"; the base has '{alike[0]}'" if alike else ""


def _ending(name: str, parts: int) -> str:
    return ".".join(name.split(".")[-parts:])


def _ends(name: list[str], ending: list[str]) -> bool:
    """Whether a base name ends so, and what comes before holds no block number."""
    before = len(name) - len(ending)
    return before >= 0 and name[before:] == ending and not any(part.isdecimal() for part in name[:before])
