"""What may be the value of a parameter: a number, a gradient over depth, a word, or where its numbers come from."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainValidator, StrictBool, ValidationError

from eutectic.errors import nearest
from eutectic.stats.coefficients import InverseNorms, RunAverage

#: At least two numbers, spread evenly over the depth of the model and joined by straight lines.
Gradient: TypeAlias = tuple[int | float, ...]
#: Where words, names and paths end: longer ones are mistakes or attacks.
LONGEST_TEXT = 4096


def read_number(raw: object) -> int | float:
    """Returns a finite number; whole ones as int, so that 1 and 1.0 are the same recipe.

    Raises:
        ValueError: when it is not a number, or not a finite one.
    """
    if isinstance(raw, bool) or not isinstance(raw, Real):
        raise ValueError(f"expected a number, found {show(raw)}")
    try:
        value = float(raw)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        hint = "; the norm-aware weights are written nan, without the dot" if math.isnan(value) else ""
        raise ValueError(f"expected a finite number, found {show(raw)}{hint}")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def read_text(raw: object) -> str:
    """Returns a non-empty line of text.

    Raises:
        ValueError: when it is something else, empty, longer than 4096 characters, or holds what cannot be printed.
    """
    if not isinstance(raw, str):
        raise ValueError(f"expected text, found {show(raw)}")
    if not raw.strip():
        raise ValueError("expected text, found nothing between the quotes")
    if len(raw) > LONGEST_TEXT:
        raise ValueError(f"expected at most {LONGEST_TEXT} characters, found {len(raw)}")
    if not raw.isprintable():
        raise ValueError(f"expected printable text on one line, found {show(raw)}")
    return raw


Text = Annotated[str, PlainValidator(read_text)]


class Part(BaseModel):
    """Base of all parts of a recipe: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def _read_scale(raw: object) -> object:
    return raw if raw == "n/2" else read_number(raw)


class NanWeights(Part):
    """Norm-aware coefficients: each model weighs by the inverse of its norm, relative to the others.

    Source: NAN, arXiv:2505.16148.

    Attributes:
        of: whose norm, the fine-tuned tensors' or their differences from the base.
        per: one norm for the whole model, or one for each tensor.
        scale: what the coefficients sum to; "n/2" is half the number of models.
    """

    of: Literal["finetuned", "delta"] = "finetuned"
    per: Literal["model", "tensor"] = "model"
    scale: Annotated[Literal["n/2"] | int | float, BeforeValidator(_read_scale)] = "n/2"

    def source(self) -> InverseNorms:
        """Returns the statistic behind it and how numbers come from it."""
        return InverseNorms(self.of, self.per, self.scale)

    def plain(self) -> str | dict[str, Any]:
        """Returns what a recipe writes: the bare word when nothing is changed."""
        changed = self.model_dump(exclude_defaults=True)
        return {"nan": changed} if changed else "nan"


def _read_alpha(raw: object) -> object:
    return raw if raw == "1/n" else read_number(raw)


class LinesScale(Part):
    """A number that rises evenly from the first block to the last, and is that of the first block outside them.

    Source: Wang et al., LiNeS, ICLR 2025, arXiv:2410.17146: the merged delta of block l of L is multiplied by
    alpha + beta l / (L - 1), and of tensors outside the blocks by alpha. As the `scale` of a method it is applied
    behind the merge, whatever the method. A model of one block has alpha.

    Attributes:
        alpha: in the first block; "1/n", the paper's for a sum of n deltas, or a number (for one model, from 0 to 1).
        beta: how much more it is in the last block; the paper tunes it (for a single model it is 1 - alpha).
    """

    alpha: Annotated[Literal["1/n"] | int | float, BeforeValidator(_read_alpha)] = "1/n"
    beta: Annotated[int | float, BeforeValidator(read_number)]

    def at(self, depth: float | None, n: int) -> float:
        """Returns the number for n models at a share `depth` in [0, 1] of the blocks, None outside them."""
        alpha = 1 / n if self.alpha == "1/n" else float(self.alpha)
        return alpha if depth is None else alpha + float(self.beta) * depth

    def plain(self) -> dict[str, Any]:
        """Returns what a recipe writes."""
        return {"lines": self.model_dump(exclude_defaults=True)}


class SmaWeights(Part):
    """The simple average along a run: every checkpoint alike. Source: PMA, arXiv:2505.12082; SWA, arXiv:1803.05407."""

    def source(self) -> RunAverage:
        """Returns how numbers come from the order of the models."""
        return RunAverage("simple")

    def plain(self) -> str:
        """Returns what a recipe writes."""
        return "sma"


class WmaWeights(Part):
    """The weighted average along a run: the i-th checkpoint, from the oldest, weighs i. Source: PMA."""

    def source(self) -> RunAverage:
        """Returns how numbers come from the order of the models."""
        return RunAverage("linear")

    def plain(self) -> str:
        """Returns what a recipe writes."""
        return "wma"


def _read_share(raw: int | float) -> int | float:
    if not 0 <= raw <= 1:
        raise ValueError(f"expected a number from 0 to 1, found {raw}")
    return raw


class EmaWeights(Part):
    """The exponential average along a run, oldest first. Source: PMA; torch's `swa_utils`.

    Attributes:
        decay: how much of the average stays when a checkpoint is added; PMA's best is 0.8 (its a is 1 - decay).
        normalized: false is the recursion, which leaves the oldest decay^(n - 1); true gives each decay^(age), over
            their sum.
    """

    decay: Annotated[int | float, PlainValidator(read_number), AfterValidator(_read_share)] = 0.8
    normalized: StrictBool = False

    def source(self) -> RunAverage:
        """Returns how numbers come from the order of the models."""
        return RunAverage("normalized" if self.normalized else "exponential", self.decay)

    def plain(self) -> str | dict[str, Any]:
        """Returns what a recipe writes: the bare word when nothing is changed."""
        changed = self.model_dump(exclude_defaults=True)
        return {"ema": changed} if changed else "ema"


#: Sources that look at nothing but the order of the models: they are numbers before anything is planned.
Ordered: TypeAlias = SmaWeights | WmaWeights | EmaWeights
#: Where the numbers of a per-model parameter come from when the recipe does not write them. A closed union: later
#: sources are added here, in `SOURCES` and in the schema.
Coefficient: TypeAlias = NanWeights | Ordered
SOURCES: dict[str, type[Coefficient]] = {"nan": NanWeights, "sma": SmaWeights, "wma": WmaWeights, "ema": EmaWeights}
_NAMED: dict[str, type[Coefficient | LinesScale]] = {**SOURCES, "lines": LinesScale}

Value: TypeAlias = bool | int | float | str | Gradient | LinesScale | Coefficient


def read_value(raw: object) -> Value:
    """Returns the value of a parameter from what a recipe writes.

    Raises:
        ValueError: when it is none of the forms a value may have.
    """
    if isinstance(raw, bool | Coefficient | LinesScale):
        return raw
    if isinstance(raw, str):
        return SOURCES[raw]() if raw in SOURCES else read_text(raw)
    if isinstance(raw, Mapping):
        return _read_source(raw)
    if isinstance(raw, list | tuple):
        if len(raw) < 2:
            raise ValueError(f"a gradient over depth has two numbers or more, found {len(raw)}")
        return tuple(read_number(entry) for entry in raw)
    if not isinstance(raw, Real):
        raise ValueError(f"expected a number, a word or a list of numbers, found {show(raw)}")
    return read_number(raw)


def _read_source(raw: Mapping[Any, Any]) -> Coefficient | LinesScale:
    """Reads `{nan: {of: delta}}` or `{lines: {beta: 0.4}}`."""
    names = [str(key) for key in raw]
    if len(names) != 1 or names[0] not in _NAMED:
        hint = nearest(names[0], _NAMED) if names else ""
        raise ValueError(f"expected a source of coefficients ({', '.join(_NAMED)}), found {', '.join(names)}{hint}")
    options = next(iter(raw.values()))
    try:
        return _NAMED[names[0]].model_validate({} if options is None else options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([names[0], *(str(step) for step in first["loc"][:1])])
        raise ValueError(f"{where}: {phrase(dict(first), _NAMED[names[0]])}") from None


def plain_value(value: Value) -> Any:
    """Returns a value as a recipe writes it, in plain lists, mappings and scalars."""
    if isinstance(value, Coefficient | LinesScale):
        return value.plain()
    return list(value) if isinstance(value, tuple) else value


def show(raw: object) -> str:
    """Returns a short description of what was found, for a message."""
    if raw is None:
        return "nothing"
    if isinstance(raw, Mapping):
        return "a mapping"
    if isinstance(raw, list | tuple):
        return "a list"
    try:
        text = repr(raw)
    except ValueError:  # an int of more digits than Python prints
        return "a number too long to print"
    return text if len(text) <= 60 else text[:57] + "..."


_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "mapping_type": "a mapping",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_LIMITS = {"greater_than_equal": ("from", "ge"), "less_than": ("below", "lt")}


def phrase(error: Mapping[str, Any], part: type[BaseModel]) -> str:
    """Says one validation error as what was expected, what was found, and the nearest key or word.

    `error` is an entry of pydantic's `ValidationError.errors()`; `part` is the class whose key it is about.
    """
    kind, found, context = error["type"], error.get("input"), error.get("ctx", {})
    if kind == "extra_forbidden":
        key = str(error["loc"][-1])
        return f"unknown key {show(key)}{nearest(key, part.model_fields)}"
    if kind == "missing":
        return f"expected the key {str(error['loc'][-1])!r}, found none"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        words = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
        return f"expected one of {', '.join(words)}; found {show(found)}{nearest(str(found)[:99], words)}"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, found {show(found)}"
    if kind in _LIMITS:
        word, limit = _LIMITS[kind]
        return f"expected a number {word} {context[limit]}, found {show(found)}"
    return f"{error['msg'].lower()}; found {show(found)}"
