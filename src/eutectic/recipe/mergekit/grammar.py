"""A document in mergekit's grammar, as data: sources with their blocks and settings, and what was said beside them.

Unknown keys are kept as remarks, as mergekit passes over them; what it refuses, or reads in two ways, is an error.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from eutectic.errors import nearest
from eutectic.recipe.document import DocumentError, Node
from eutectic.recipe.mergekit.settings import Settings, read_setting
from eutectic.recipe.values import LONGEST_TEXT, show

T = TypeVar("T")

DTYPES = ("bfloat16", "float16", "float32", "float64")
#: Of all documents that name a `merge_method`.
KEYS = (
    "merge_method", "models", "slices", "modules", "base_model", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer", "chat_template", "name",
)  # fmt: skip
#: Spellings of older versions and of other people, which mergekit passes over.
_OLD = {
    "embed_slerp": "the embeddings are merged as every other tensor",
    "normalize": "it belongs under parameters",
    "weight": "it belongs under parameters",
    "lambda": "it belongs under parameters",
    "density": "it belongs under parameters",
    "int8_mask": "it belongs under parameters, where it changes nothing",
    "layer_range": "it belongs to a source of a slice",
}


@dataclass(frozen=True)
class Source:
    """One model that feeds a slice; `blocks` is half-open, and None for all."""

    model: str
    blocks: tuple[int, int] | None
    settings: Settings
    line: int


@dataclass(frozen=True)
class Piece:
    """A slice of the output; a document with `models` has one, of all blocks."""

    sources: tuple[Source, ...]
    settings: Settings
    base: str | None
    line: int


@dataclass(frozen=True)
class Module:
    """One part of a model that has several, such as a vision tower."""

    name: str
    pieces: tuple[Piece, ...]
    settings: Settings
    line: int


@dataclass(frozen=True)
class Token:
    """Where one token's row comes from.

    Attributes:
        source: a model, `zero`, or None for the usual.
        token: the text or id of the model's token whose row it takes.
        force: take it also where the token exists.
    """

    source: str | None
    token: str | int | None
    force: bool
    line: int


@dataclass(frozen=True)
class Tokenizer:
    """What becomes of the vocabularies: `source` is union, base or a model."""

    source: str
    tokens: Mapping[str, Token]
    multiple: int | None
    line: int


@dataclass(frozen=True)
class Document:
    """One recipe of mergekit's; `remarks` are what it passes over, by line."""

    method: str
    base: str | None
    modules: tuple[Module, ...]
    settings: Settings
    dtype: str | None
    out_dtype: str | None
    tokenizer: Tokenizer | None
    chat_template: str | None
    name: str | None
    line: int
    lines: Mapping[str, int]
    remarks: tuple[tuple[int, str], ...]


def read_document(top: Node) -> Document:
    """Reads one document.

    Raises:
        DocumentError: for the first thing that mergekit would refuse, or that is ambiguous.
    """
    return _Reader().document(_spread(top))


def read_reference(node: Node) -> str:
    """Reads a model: `path@revision+adapter@revision`, or the same in parts; as one text.

    Raises:
        DocumentError: when it is neither, or names an architecture to read it as.
    """
    raw = node.value
    if isinstance(raw, dict):
        if "model" in raw:
            over = raw.get("override_architecture")
            if over is not None and over.value is not None:
                text = "override_architecture says how to read names, which are read as they are here; remove it"
                raise DocumentError(over.line, text)
            lora = raw.get("lora")
            adapter = f"+{read_reference(lora)}" if lora is not None and lora.value is not None else ""
            return read_reference(raw["model"]) + adapter
        if "path" in raw:
            revision = raw.get("revision")
            at = f"@{revision.value}" if revision is not None and revision.value is not None else ""
            return f"{read_reference(raw['path'])}{at}"
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        raw = str(raw)
    if not isinstance(raw, str) or not raw.strip() or not raw.isprintable() or len(raw) > LONGEST_TEXT:
        raise DocumentError(node.line, f"expected a model, such as org/name or a folder, found {show(node.plain())}")
    if raw.count("+") > 1:
        raise DocumentError(node.line, f"expected a model and at most one adapter, found {show(raw)}")
    if any(part.count("@") > 1 for part in raw.split("+")):
        raise DocumentError(node.line, f"expected at most one @ before a revision, found {show(raw)}")
    return raw


@dataclass
class _Reader:
    remarks: list[tuple[int, str]] = field(default_factory=list)

    def document(self, top: Node) -> Document:
        raw = self.mapping(top, KEYS, "a recipe")
        shapes = [key for key in ("models", "slices", "modules") if _given(raw, key)]
        if len(shapes) != 1:
            found = " and ".join(shapes) or "none"
            raise DocumentError(top.line, f"expected exactly one of models, slices and modules, found {found}")
        method = raw["merge_method"]
        if not isinstance(method.value, str):
            raise DocumentError(method.line, f"expected the name of a method, found {show(method.plain())}")
        if _given(raw, "tokenizer_source") and _given(raw, "tokenizer"):
            raise DocumentError(top.keys["tokenizer"], "expected tokenizer or tokenizer_source, found both")
        return Document(
            method.value,
            self.optional(raw, "base_model", read_reference),
            self.modules(raw),
            self.settings(raw),
            self.optional(raw, "dtype", _dtype),
            self.optional(raw, "out_dtype", _dtype),
            self.optional(raw, "tokenizer_source", self.token_source)
            or self.optional(raw, "tokenizer", self.tokenizer),
            self.optional(raw, "chat_template", _text),
            self.optional(raw, "name", _text),
            top.line,
            dict(top.keys),
            tuple(self.remarks),
        )

    def mapping(self, node: Node, keys: tuple[str, ...], what: str) -> Mapping[str, Node]:
        """A mapping, and a remark for each key that it does not have in mergekit."""
        if not isinstance(node.value, dict):
            raise DocumentError(node.line, f"expected {what} as a mapping, found {show(node.plain())}")
        raw = node.value
        for key in raw:
            if key not in keys:
                why = f"; {_OLD[key]}" if key in _OLD else nearest(key, keys)
                self.remarks.append((node.keys.get(key, node.line), f"the key {show(key)} has no effect{why}"))
        return raw

    def optional(self, raw: Mapping[str, Node], key: str, read: Callable[[Node], T]) -> T | None:
        return read(raw[key]) if _given(raw, key) else None

    def settings(self, raw: Mapping[str, Node]) -> Settings:
        node = raw.get("parameters")
        if node is None or node.value is None:
            return {}
        if not isinstance(node.value, dict):
            raise DocumentError(node.line, f"expected parameters as a mapping, found {show(node.plain())}")
        return {name: read_setting(value) for name, value in node.value.items()}

    def modules(self, raw: Mapping[str, Node]) -> tuple[Module, ...]:
        if not _given(raw, "modules"):
            some = raw["models"] if _given(raw, "models") else raw["slices"]
            return (Module("", self.pieces(raw), {}, some.line),)
        node = raw["modules"]
        if not isinstance(node.value, dict):
            raise DocumentError(node.line, f"expected modules by name, found {show(node.plain())}")
        return tuple(self.module(name, inside) for name, inside in node.value.items())

    def module(self, name: str, node: Node) -> Module:
        raw = self.mapping(node, ("models", "slices", "parameters"), "a module")
        if _given(raw, "models") == _given(raw, "slices"):
            raise DocumentError(node.line, f"module {name}: expected models or slices, one of them")
        return Module(name, self.pieces(raw), self.settings(raw), node.line)

    def pieces(self, raw: Mapping[str, Node]) -> tuple[Piece, ...]:
        if _given(raw, "models"):
            entries = _entries(raw["models"], "models")
            sources = tuple(self.source(entry, blocks=False) for entry in entries)
            return (Piece(sources, {}, None, raw["models"].line),)
        return tuple(self.piece(entry) for entry in _entries(raw["slices"], "slices"))

    def piece(self, node: Node) -> Piece:
        raw = self.mapping(node, ("sources", "base_model", "residual_weight", "parameters"), "a slice")
        if not _given(raw, "sources"):
            raise DocumentError(node.line, "expected the key sources in a slice, found none")
        if _given(raw, "residual_weight"):
            self.remarks.append((raw["residual_weight"].line, "residual_weight has no effect, in mergekit as here"))
        sources = tuple(self.source(entry, blocks=True) for entry in _entries(raw["sources"], "sources"))
        return Piece(sources, self.settings(raw), self.optional(raw, "base_model", read_reference), node.line)

    def source(self, node: Node, *, blocks: bool) -> Source:
        keys = ("model", "layer_range", "parameters") if blocks else ("model", "parameters")
        raw = self.mapping(node, keys, "a model")
        if not _given(raw, "model"):
            raise DocumentError(node.line, "expected the key model, found none")
        if blocks and not _given(raw, "layer_range"):
            raise DocumentError(node.line, "expected the key layer_range in a source of a slice, found none")
        run = _range(raw["layer_range"]) if blocks else None
        return Source(read_reference(raw["model"]), run, self.settings(raw), node.line)

    # Tokenizers -------------------------------------------------------------------------------------------------------

    def token_source(self, node: Node) -> Tokenizer:
        source = read_reference(node)
        if source.startswith("model:"):
            self.remarks.append(
                (node.line, "tokenizer_source: the prefix model: is of an old version, and is left out")
            )
            source = source.removeprefix("model:")
        return Tokenizer(source, {}, None, node.line)

    def tokenizer(self, node: Node) -> Tokenizer:
        raw = self.mapping(node, ("source", "tokens", "pad_to_multiple_of"), "a tokenizer")
        source = self.optional(raw, "source", read_reference) or "union"
        tokens = raw["tokens"].value if _given(raw, "tokens") else {}
        if not isinstance(tokens, dict):
            raise DocumentError(raw["tokens"].line, f"expected tokens by text, found {show(raw['tokens'].plain())}")
        return Tokenizer(
            source,
            {text: self.token(entry) for text, entry in tokens.items()},
            self.optional(raw, "pad_to_multiple_of", _count),
            node.line,
        )

    def token(self, node: Node) -> Token:
        raw = self.mapping(node, ("source", "force"), "a token")
        force = raw.get("force")
        forced = force is not None and str(force.value).lower() in ("true", "yes", "on", "1")
        source = raw.get("source")
        if source is None or source.value is None:
            return Token(None, None, forced, node.line)
        inside = source.value
        if not isinstance(inside, dict) or "kind" not in inside:
            return Token(read_reference(source), None, forced, node.line)
        if inside["kind"].value == "zero":
            return Token("zero", None, forced, node.line)
        if inside["kind"].value != "model_token" or "model" not in inside:
            raise DocumentError(source.line, "expected kind: zero, or kind: model_token with a model")
        named = [inside[key].value for key in ("token", "token_id") if _given(inside, key)]
        if len(named) != 1 or isinstance(named[0], list | dict | bool | float):
            raise DocumentError(source.line, "expected token or token_id, one of them")
        return Token(read_reference(inside["model"]), named[0], forced, node.line)


def _spread(node: Node) -> Node:
    """Returns the node with the keys of mappings that `<<` names taken in, as YAML 1.1 has it; written ones win."""
    if isinstance(node.value, list):
        return replace(node, value=[_spread(entry) for entry in node.value])
    if not isinstance(node.value, dict):
        return node
    inside = {key: _spread(value) for key, value in node.value.items()}
    taken = inside.pop("<<", None)
    if taken is None:
        return replace(node, value=inside)
    lines = dict(node.keys)
    for part in taken.value if isinstance(taken.value, list) else [taken]:
        if not isinstance(part.value, dict):
            raise DocumentError(part.line, f"expected a mapping after <<, found {show(part.plain())}")
        inside = {**part.value, **inside}
        lines = {**part.keys, **lines}
    return replace(node, value=inside, keys=lines)


def _given(raw: Mapping[str, Node], key: str) -> bool:
    return key in raw and raw[key].value is not None


def _entries(node: Node, what: str) -> list[Node]:
    if not isinstance(node.value, list) or not node.value:
        raise DocumentError(node.line, f"expected {what} as a list with an entry or more, found {show(node.plain())}")
    return node.value


def _range(node: Node) -> tuple[int, int]:
    found: Any = node.plain()
    whole = isinstance(found, list) and len(found) == 2
    if not whole or not all(isinstance(end, int) and not isinstance(end, bool) for end in found):
        raise DocumentError(node.line, f"expected layer_range as [first, end], found {show(found)}")
    start, stop = found
    if not 0 <= start < stop < 10**6:
        raise DocumentError(node.line, f"expected a first layer below the end, found [{start}, {stop}]")
    return start, stop


def _count(node: Node) -> int:
    if not isinstance(node.value, int) or isinstance(node.value, bool) or not 0 < node.value < 2**31:
        raise DocumentError(node.line, f"expected a whole number from 1, found {show(node.plain())}")
    return node.value


def _text(node: Node) -> str:
    if not isinstance(node.value, str) or not node.value.strip():
        raise DocumentError(node.line, f"expected text, found {show(node.plain())}")
    return node.value


def _dtype(node: Node) -> str:
    word = re.sub(r"^torch\.", "", str(node.value))
    if word not in DTYPES:
        text = f"expected one of {', '.join(DTYPES)}, found {show(node.plain())}{nearest(word[:99], DTYPES)}"
        raise DocumentError(node.line, text)
    return word
