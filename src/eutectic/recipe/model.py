"""What the user asked for, as data: a recipe is the same object from YAML, JSON, a mapping or these constructors.

A recipe says what to merge (`base`, `models`), how (`method`, a chain of transforms and one combine), with what
exceptions (`rules`, `slices`), and what to do where the models do not fit. Nothing here opens a checkpoint.
These classes hold the shape of a recipe; `check` holds what it must mean.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    PrivateAttr,
    StrictBool,
    StrictInt,
    model_validator,
)

from eutectic.errors import RecipeError, nearest
from eutectic.quantities import parse_bytes
from eutectic.recipe.anchors import Anchors
from eutectic.recipe.calibration import Calibration
from eutectic.recipe.document import dump
from eutectic.recipe.values import Part, Text, Value, plain_value, read_text, read_value, show
from eutectic.recipe.vocabulary import Vocabulary

#: What the recipe calls its base wherever a model may be named.
BASE = "base"
#: What a rule calls the tensors that lie before all blocks, and behind them.
BEFORE, BEHIND = "before", "behind"
#: Templates of tool-calling models reach a few ten thousand characters.
LONGEST_TEMPLATE = 200_000

T = TypeVar("T")


def _several(raw: object) -> object:
    """One thing stands for a list of one."""
    return (raw,) if isinstance(raw, str | Mapping | Part) else raw


def _not_empty(read: tuple[T, ...]) -> tuple[T, ...]:
    if not read:
        raise ValueError("expected at least one, found an empty list")
    return read


def _two(read: tuple[int, ...]) -> tuple[int, ...]:
    if len(read) != 2:
        raise ValueError(f"expected two numbers, first block and end, as in [0, 8]; found {len(read)}")
    return read


def _read_reference(raw: object) -> str:
    return read_text(os.fspath(raw) if isinstance(raw, os.PathLike) else raw)


def _read_blocks(raw: object) -> str:
    """Reads `"0-3,7"`, both ends included, or one block as a number; `before` and `behind` are what lies outside."""
    text = str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else read_text(raw)
    text = text.replace(" ", "")
    for piece in text.split(","):
        if piece in (BEFORE, BEHIND):
            continue
        found = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", piece, re.ASCII)
        if found is None or int(found[2] or found[1]) < int(found[1]):
            text = f"expected blocks such as '0-3,7', both ends included, or before and behind; found {show(text)}"
            raise ValueError(text)
    return text


def _read_size(raw: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise ValueError(f"expected a size such as '5GB', found {show(raw)}")
    try:
        size = parse_bytes(raw if isinstance(raw, int) else raw[:64])
    except (RecipeError, OverflowError):
        size = 0
    if not 0 < size < 2**63:
        raise ValueError(f"expected a size such as '5GB', found {show(raw)}")
    return size


def _read_template(raw: object) -> str:
    """Reads a name, or Jinja text of several lines."""
    if isinstance(raw, str) and ("{{" in raw or "{%" in raw):
        if len(raw) > LONGEST_TEMPLATE:
            raise ValueError(f"expected a template of at most {LONGEST_TEMPLATE} characters, found {len(raw)}")
        return raw
    return read_text(raw)


Reference = Annotated[str, PlainValidator(_read_reference)]
Blocks = Annotated[str, PlainValidator(_read_blocks)]
Parameters = Mapping[Text, Annotated[Value, PlainValidator(read_value)]]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_several), AfterValidator(_not_empty)]
Size = Annotated[int, PlainValidator(_read_size)]
#: Half-open: `[0, 8]` holds 0 to 7.
BlockRange = Annotated[tuple[Annotated[StrictInt, Field(ge=0, lt=10**6)], ...], AfterValidator(_two)]


def _gather(raw: Mapping[Any, Any], fields: frozenset[str]) -> dict[str, Any]:
    """Moves the keys that are not fields under `parameters`, where the constructors expect them."""
    own: dict[str, Any] = {key: raw[key] for key in raw if key in fields}
    given = own.get("parameters", {})
    loose = {key: raw[key] for key in raw if key not in fields}
    if isinstance(given, Mapping):
        twice = sorted(str(key) for key in loose if key in given)
        if twice:
            raise ValueError(f"{twice[0]} is given twice, under parameters and beside it")
        own["parameters"] = {**given, **loose}
    return own


class Step(Part):
    """One method of a chain with its parameters: written `ties` or `{ties: {density: 0.2}}`."""

    method: Text
    parameters: Parameters = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, raw: object) -> object:
        if isinstance(raw, str):
            return {"method": raw}
        if not isinstance(raw, Mapping) or "method" in raw:
            return raw
        if len(raw) != 1:
            keys = ", ".join(str(key)[:40] for key in list(raw)[:9])
            raise ValueError(f"expected one method a step, found the keys {keys}; write a chain as a list")
        name, parameters = next(iter(raw.items()))
        return {"method": name, "parameters": {} if parameters is None else parameters}

    def plain(self) -> str | dict[str, Any]:
        """Returns what a recipe writes."""
        return {self.method: _plain_parameters(self.parameters)} if self.parameters else self.method


Chain = Annotated[tuple[Step, ...], BeforeValidator(_several), AfterValidator(_not_empty)]


class ModelEntry(Part):
    """One model to merge, with its own values of per-model parameters: written as a path, or as a mapping.

    Attributes:
        model: a path, `org/name@revision` or `path+adapter`, as the user wrote it.
        recipe: instead of `model`, a recipe whose result is merged (a stage).
        task: the model of this task, where `model` is an output that holds parts for several.
        base: the base that output was made around, where it is not where its receipt says.
        name: what rules, slices and messages call it; by default its reference.
        parameters: values for this model alone; written beside the other keys.
    """

    model: Reference | None = None
    recipe: "Recipe | None" = None
    task: Text | None = None
    base: Reference | None = None
    name: Text | None = None
    parameters: Parameters = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, raw: object) -> object:
        if isinstance(raw, str | os.PathLike):
            return {"model": raw}
        if isinstance(raw, Recipe):
            return {"recipe": raw}
        if not isinstance(raw, Mapping):
            return raw
        if (raw.get("model") is None) == (raw.get("recipe") is None):
            keys = [str(key)[:40] for key in list(raw)[:9]]
            hint = next((text for key in keys if (text := nearest(key, ("model", "recipe")))), "")
            raise ValueError(f"expected the key model or recipe, one of them; found {', '.join(keys) or 'none'}{hint}")
        task, base = raw.get("task"), raw.get("base")
        if (task is not None and raw.get("model") is None) or (base is not None and task is None):
            raise ValueError("task goes with a model that holds parts for several, and base with a task")
        return _gather(raw, frozenset(cls.model_fields))

    @property
    def reference(self) -> str | None:
        """What names it when it has no name of its own: `path`, or `path#task`; None for a recipe."""
        return self.model if self.task is None else f"{self.model}#{self.task}"

    def plain(self) -> dict[str, Any]:
        """Returns what a recipe writes."""
        own = {"model": self.model, "recipe": self.recipe and self.recipe.to_dict()}
        own |= {"task": self.task, "base": self.base, "name": self.name}
        return {key: value for key, value in own.items() if value is not None} | _plain_parameters(self.parameters)


class SliceSource(Part):
    """Blocks of one model that feed a slice; `blocks` is half-open, `[0, 8]` holds 0 to 7.

    `model` is the name or reference of an entry of `models`, or `base`: the base as one model among the others.
    """

    model: Reference
    blocks: BlockRange
    parameters: Parameters = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, raw: object) -> object:
        return _gather(raw, frozenset(cls.model_fields)) if isinstance(raw, Mapping) else raw

    @property
    def length(self) -> int:
        """Number of blocks."""
        return self.blocks[1] - self.blocks[0]

    def plain(self) -> dict[str, Any]:
        """Returns what a recipe writes."""
        return {"model": self.model, "blocks": list(self.blocks)} | _plain_parameters(self.parameters)


class Slice(Part):
    """A run of output blocks made from runs of input blocks; slices follow one another in the output.

    Attributes:
        sources: what is merged, in order; all of one length.
        base_blocks: the blocks of the base that a method with a base subtracts; by default the first source's.
        parameters: values for these blocks, for all models.
    """

    sources: Annotated[tuple[SliceSource, ...], AfterValidator(_not_empty)]
    base_blocks: BlockRange | None = None
    parameters: Parameters = Field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Returns what a recipe writes."""
        written: dict[str, Any] = {"sources": [source.plain() for source in self.sources]}
        if self.base_blocks is not None:
            written["base_blocks"] = list(self.base_blocks)
        return written | ({"parameters": _plain_parameters(self.parameters)} if self.parameters else {})


class Rule(Part):
    """What differs for some tensors: it applies where all its selectors match, and later rules win.

    Attributes:
        match: globs on the output tensor's name, one of which must match.
        role: globs on its role, one of which must match.
        blocks: its block, such as `"0-3,7"`, both ends included; `before` and `behind` for tensors outside all blocks.
        models: `set` changes these models' values only.
        set: values of parameters.
        keep: take the tensor unchanged from `base` or from this model.
        method: another chain.
    """

    match: Texts | None = None
    role: Texts | None = None
    blocks: Blocks | None = None
    models: Texts | None = None
    set: Parameters = Field(default_factory=dict)
    keep: Text | None = None
    method: Chain | None = None

    def covers(self, block: int | None, depth: float = 0.0) -> bool:
        """Whether `blocks` allows this block or, outside the blocks, this depth: 0 lies before them, 1 behind."""
        if self.blocks is None:
            return True
        pieces = self.blocks.split(",")
        if block is None:
            return (BEHIND if depth > 0.5 else BEFORE) in pieces
        ranges = (piece.split("-") for piece in pieces if piece not in (BEFORE, BEHIND))
        return any(int(piece[0]) <= block <= int(piece[-1]) for piece in ranges)

    def plain(self) -> dict[str, Any]:
        """Returns what a recipe writes."""
        written: dict[str, Any] = {}
        for key in ("match", "role", "models"):
            texts: tuple[str, ...] | None = getattr(self, key)
            if texts is not None:
                written[key] = texts[0] if len(texts) == 1 and key != "models" else list(texts)
        written |= {} if self.blocks is None else {"blocks": self.blocks}
        written |= {"set": _plain_parameters(self.set)} if self.set else {}
        written |= {} if self.keep is None else {"keep": self.keep}
        return written | ({} if self.method is None else {"method": _plain_chain(self.method)})


class Output(Part):
    """How the result is written.

    Attributes:
        dtype: the type of the written tensors; `as-base` keeps the base's, or the first model's without a base;
            `promote` takes the least type that holds those of all models, tensor by tensor.
        shard_size: largest weight file, in bytes; written as a number or as `5GB`.
        tokenizer: `base` or a model, whose tokenizer is copied; by default the base's, or the first model's.
        form: a `model`; an `adapter`, a PEFT folder of low-rank factors; or a `delta`, the merged difference from the
            base as dense tensors.
        rank: the most an adapter's updates may have. Without `rank` and `error` nothing is cut off.
        error: the share of each update's norm that an adapter may lose; ranks follow, tensor by tensor.
        rest: what becomes of tensors that differ and that factors cannot hold, such as norms: refused, stored in full
            beside the factors, or left out.
        chat_template: `auto` (what most models have), `base` or a model, a known one (`chatml` ...), or Jinja text; by
            default the tokenizer's own.
    """

    dtype: Literal["as-base", "promote", "float32", "bfloat16", "float16", "float64"] = "as-base"
    shard_size: Size = 5 * 10**9
    tokenizer: Text | None = None
    form: Literal["model", "adapter", "delta"] = "model"
    rank: Annotated[StrictInt, Field(ge=1, lt=10**6)] | None = None
    error: Annotated[float, Field(gt=0, lt=1)] | None = None
    rest: Literal["error", "save", "drop"] = "error"
    chat_template: Annotated[str, PlainValidator(_read_template)] | None = None


class Recipe(Part):
    """What to merge and how; see `docs/recipes.md` for the dialect.

    Two things are no part of what it says, and are not written: `root`, the folder that relative paths start from
    (the recipe file's own), and `notes`, what was said when it was read from another tool's dialect.
    """

    base: Reference | None = None
    models: Annotated[tuple[ModelEntry, ...], BeforeValidator(_several), AfterValidator(_not_empty)]
    method: Chain
    rules: tuple[Rule, ...] = ()
    slices: tuple[Slice, ...] = ()
    dtype: Literal["auto", "float32", "float64"] = "auto"
    input_dtype: Literal["stored", "float32", "bfloat16", "float16", "float64"] = "stored"
    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)] = 0
    missing: Literal["error", "base", "present"] = "error"
    extra: Literal["error", "copy", "drop"] = "error"
    buffers: Literal["error", "base"] = "error"
    vocabulary: Vocabulary = Vocabulary()
    non_finite: Literal["error", "keep"] = "error"
    pickles: StrictBool = False
    calibration: Calibration | None = None
    anchors: Anchors | None = None
    output: Output = Output()
    root: Path | None = Field(default=None, exclude=True, repr=False)
    _notes: tuple[str, ...] = PrivateAttr(())

    @property
    def notes(self) -> tuple[str, ...]:
        """What there was to say when it was read from another tool's dialect: traps reproduced, keys without effect."""
        return self._notes

    def noted(self, notes: Iterable[str]) -> "Recipe":
        """Returns the same recipe with these notes."""
        copy = self.model_copy()
        copy._notes = tuple(notes)  # noqa: SLF001 - its own
        return copy

    @property
    def names(self) -> tuple[str, ...]:
        """What each entry of `models` is called: its name, its reference, or the number of its stage."""
        return tuple(
            entry.name or entry.reference or f"recipe {number}" for number, entry in enumerate(self.models, start=1)
        )

    def find(self, reference: str) -> int | None:
        """Returns the place in `models` of a name or, where no model has that name, of a reference."""
        if reference in self.names:
            return self.names.index(reference)
        places = [place for place, entry in enumerate(self.models) if entry.model == reference]
        return places[0] if len(places) == 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Returns the recipe as plain data, without what is at its default; reading it gives an equal recipe."""
        written: dict[str, Any] = {} if self.base is None else {"base": self.base}
        written["models"] = [entry.plain() for entry in self.models]
        written["method"] = _plain_chain(self.method)
        if self.rules:
            written["rules"] = [rule.plain() for rule in self.rules]
        if self.slices:
            written["slices"] = [piece.plain() for piece in self.slices]
        if self.vocabulary != Vocabulary():
            written["vocabulary"] = self.vocabulary.plain()
        if self.calibration is not None:
            written["calibration"] = self.calibration.plain()
        if self.anchors is not None:
            written["anchors"] = self.anchors.plain()
        apart = {"base", "rules", "slices", "root", "calibration", "anchors"}
        options = self.model_dump(exclude_defaults=True, exclude={*written, *apart})
        return written | options

    def to_yaml(self) -> str:
        """Returns the recipe as YAML."""
        return dump(self.to_dict())

    def digest(self) -> str:
        """Returns a sha256 of what the recipe says, in hexadecimal: equal for equal recipes, however written."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def _plain_parameters(parameters: Mapping[str, Value]) -> dict[str, Any]:
    return {name: plain_value(value) for name, value in parameters.items()}


def _plain_chain(chain: tuple[Step, ...]) -> Any:
    steps = [step.plain() for step in chain]
    return steps[0] if len(steps) == 1 else steps


ModelEntry.model_rebuild()
