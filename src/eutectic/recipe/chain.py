"""A chain of a recipe bound to the methods it names, and which step a written parameter belongs to."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from eutectic.errors import RecipeError, nearest
from eutectic.methods import METHODS, get
from eutectic.methods.declare import Method, Parameter
from eutectic.recipe.model import Chain, Step
from eutectic.recipe.values import Coefficient, LinesScale, Value, show
from eutectic.stats.fold import Calibrated, Norm


@dataclass(frozen=True)
class BoundStep:
    """A step and the method it names."""

    step: Step
    method: Method[Any]


Bound = tuple[BoundStep, ...]


def bind(chain: Iterable[Step]) -> Bound:
    """Returns the chain with its methods.

    Raises:
        RecipeError: for an unknown method, with the nearest name.
    """
    return tuple(BoundStep(step, get(step.method)) for step in chain)


def bind_loosely(chain: Iterable[Step]) -> Bound | None:
    """Binds unknown methods to the nearest known ones, so that a typo hides no other error; None where none is near."""
    bound = []
    for step in chain:
        name = next(iter(difflib.get_close_matches(step.method, METHODS, n=1)), None)
        if name is None:
            return None
        bound.append(BoundStep(step, METHODS[name]))
    return tuple(bound)


def owners(chain: Bound, name: str) -> list[tuple[int, Parameter]]:
    """Returns the steps that a written name means, bare (`density`) or with its step (`dare.density`)."""
    prefix, dot, bare = name.rpartition(".")
    found = ((place, bound, bound.method.parameter(bare)) for place, bound in enumerate(chain))
    return [(place, own) for place, bound, own in found if own and (not dot or bound.method.name == prefix)]


def ambiguous(chain: Bound, name: str) -> str | None:
    """Says how to write a bare name that several steps of the chain share; None when it is clear."""
    places = [place for place, _ in owners(chain, name)]
    if len(places) < 2:
        return None
    steps = [chain[place].method.name for place in places]
    ways = " or ".join(f"{step}.{name}" for step in steps)
    return f"{name} is a parameter of {' and '.join(steps)}; write {ways}"


def miscount(method: Method[Any], models: int, base: bool) -> str | None:
    """Says that a method does not take so many models, `base` beside them or not; None when it does."""
    needs = method.needs
    found = models + (1 if needs.base_counts and base else 0)
    if found >= needs.models.low and (needs.models.high is None or found <= needs.models.high):
        return None
    counted = " with the base" if needs.base_counts and base else ""
    return f"{method.name} takes {needs.models} models, found {found}{counted}"


def check_value(method: Method[Any], parameter: Parameter, value: Value) -> None:
    """Checks a value against the declaration.

    Raises:
        RecipeError: when it is of another kind or out of bounds.
    """
    if isinstance(value, Coefficient):
        if not parameter.bounds.per_model or parameter.kind != "float":
            raise RecipeError(f"{method.name}: {parameter.name} is one value for all models; found a source of weights")
        return
    if isinstance(value, tuple | LinesScale) and parameter.kind != "float":
        found = "a list" if isinstance(value, tuple) else "lines"
        raise RecipeError(f"{method.name}: {parameter.name} does not vary over depth; found {found}")
    if isinstance(value, LinesScale):
        return  # its numbers are checked where they are known, tensor by tensor
    for entry in value if isinstance(value, tuple) else (value,):
        parameter.check(entry, method.name)


def asked(raw: object) -> tuple[Calibrated, ...]:
    """Returns the statistics of data that a chain, written as in a recipe, asks for.

    Raises:
        RecipeError: when it is not a chain, or names an unknown method.
    """
    try:
        steps = TypeAdapter(Chain).validate_python(raw)
    except ValidationError as error:
        raise RecipeError(f"expected a method as a recipe writes it, found {show(raw)}") from error
    found: dict[Calibrated, None] = {}
    for bound in bind(steps):
        known = [own.name for own in bound.method.parameters]
        for name in bound.step.parameters:
            if name not in known:
                raise RecipeError(f"unknown parameter {name} of {bound.method.name}{nearest(name, known)}")
        for each in calibrated(bound).values():
            found[each.over if isinstance(each, Norm) else each] = None
    return tuple(found)


def calibrated(bound: BoundStep) -> Mapping[str, Calibrated | Norm]:
    """Returns the statistics of data that a step of a chain reads, by the name it reads them under."""
    values = {own.name: bound.step.parameters.get(own.name, own.default) for own in bound.method.parameters}
    return bound.method.calibrated(**values)
