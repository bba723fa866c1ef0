"""The value of one parameter in mergekit's grammar: a scalar, a gradient, or conditions on the tensor's name."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from eutectic.recipe.document import DocumentError, Node
from eutectic.recipe.values import show

Scalar: TypeAlias = bool | int | float | str
Kind = Literal["float", "int", "bool"]

#: Words that YAML 1.1 and mergekit's checks take for true and false.
_TRUE = frozenset(["yes", "on", "true", "y", "t", "1"])
_FALSE = frozenset(["no", "off", "false", "n", "f", "0"])


@dataclass(frozen=True)
class Condition:
    """Values for the tensors whose name contains `filter`; for all when it is None.

    Attributes:
        filter: a plain part of a name.
        values: one value, or a gradient's.
        line: where it is written.
    """

    filter: str | None
    values: tuple[Scalar, ...]
    line: int


#: The first condition that matches wins.
Setting: TypeAlias = tuple[Condition, ...]
Settings: TypeAlias = Mapping[str, Setting]


def read_setting(node: Node) -> Setting:
    """Reads the value of a parameter; an empty list says nothing, as in mergekit.

    Raises:
        DocumentError: when it is none of the forms a value may have.
    """
    if isinstance(node.value, dict):
        return (_condition(node),)
    if isinstance(node.value, list) and any(isinstance(entry.value, dict) for entry in node.value):
        return tuple(_condition(entry) for entry in node.value)
    values = _values(node)
    return (Condition(None, values, node.line),) if values else ()


def _condition(node: Node) -> Condition:
    if not isinstance(node.value, dict) or "value" not in node.value:
        text = f"expected conditions such as {{filter: mlp, value: 0.5}}, found {show(node.plain())}"
        raise DocumentError(node.line, text)
    part = node.value.get("filter")
    if part is not None and part.value is not None and not isinstance(part.value, str | int | float):
        raise DocumentError(part.line, f"expected a part of a tensor's name, found {show(part.plain())}")
    wanted = None if part is None or part.value is None else str(part.value)
    values = _values(node.value["value"])
    if not values:
        raise DocumentError(node.line, "expected a value for this filter, found an empty list")
    return Condition(None if wanted in (None, "*", "") else wanted, values, node.line)


def _values(node: Node) -> tuple[Scalar, ...]:
    entries = node.value if isinstance(node.value, list) else [node]
    found = []
    for entry in entries:
        if not isinstance(entry.value, bool | int | float | str):
            raise DocumentError(entry.line, f"expected a number, true, false or a list, found {show(entry.plain())}")
        found.append(entry.value)
    return tuple(found)


def layered(name: str, scopes: Iterable[Settings]) -> Setting:
    """Joins what the scopes say of a parameter, most particular first, and ends at the first that is unconditional."""
    found: list[Condition] = []
    for scope in scopes:
        for condition in scope.get(name, ()):
            found.append(condition)
            if condition.filter is None:
                return tuple(found)
    return tuple(found)


def convert(condition: Condition, kind: Kind, name: str) -> tuple[bool | int | float, ...]:
    """Returns the values in the parameter's kind, as leniently as mergekit: `"0.5"` is a number, `yes` is true.

    Raises:
        DocumentError: when one is of another kind, or not finite.
    """
    return tuple(_scalar(value, kind, name, condition.line) for value in condition.values)


def _scalar(value: Scalar, kind: Kind, name: str, line: int) -> bool | int | float:
    if kind == "bool":
        word = str(value).strip().lower()
        if word in _TRUE | _FALSE:
            return word in _TRUE
        raise DocumentError(line, f"{name} is true or false; found {show(value)}")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DocumentError(line, f"{name} is a finite number; found {show(value)}")
    if kind == "int":
        if number != int(number):
            raise DocumentError(line, f"{name} is a whole number; found {show(value)}")
        return int(number)
    return number


def at(values: Sequence[float], position: float) -> float:
    """Returns a gradient's value at a share of the way in [0, 1]: evenly spread numbers, lines between."""
    place = position * (len(values) - 1)
    low = int(place)
    share = place - low
    return (1 - share) * values[low] + share * values[min(low + 1, len(values) - 1)]
