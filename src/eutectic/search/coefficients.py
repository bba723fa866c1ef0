"""The weights of a recipe's task arithmetic as a table: which there are, where they start; the recipe with others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from eutectic.errors import RecipeError
from eutectic.layout.infer import infer
from eutectic.layout.layout import Place
from eutectic.layout.roles import Role
from eutectic.plan.steps import Plan
from eutectic.recipe.chain import bind, owners
from eutectic.recipe.model import BEFORE, BEHIND, Recipe, Rule

By = Literal["tensor", "block", "model"]
#: The combine whose weights are learned, and their name.
COMBINE, WEIGHT = "task_arithmetic", "weight"
#: Where coefficients start if neither the recipe nor the caller says: as published.
START = 0.3
#: Digits behind the point that are written.
DIGITS = 6
#: Rules that a recipe can hold, and be read again.
MOST_RULES = 6000


@dataclass(frozen=True)
class Coefficients:
    """A table of coefficients, a row for each group of tensors and a column for each model.

    Attributes:
        by: what is a group.
        groups: the row of each tensor, by name.
        labels: what the rows are called: a tensor, a block (or before, behind), or the model.
        start: where they start, (groups, n).
        scale: what multiplies each tensor's weighted sum, by name.
    """

    by: By
    groups: Mapping[str, int]
    labels: tuple[str, ...]
    start: tuple[tuple[float, ...], ...]
    scale: Mapping[str, float]


def check_recipe(recipe: Recipe, by: By) -> None:
    """Checks that there are weights to learn.

    Raises:
        RecipeError: when not.
    """
    last = recipe.method[-1].method
    if last != COMBINE:
        raise RecipeError(f"expected a chain that ends in {COMBINE}, whose weights are learned, found {last}")
    if recipe.base is None:
        raise RecipeError("expected a base that the models were trained from, found none; add base")
    if recipe.calibration is None:
        raise RecipeError("coefficients are learned on data; add calibration: {data: FILE}")
    if recipe.slices:
        raise RecipeError("expected whole models, found slices; merge the slices first, and learn on what comes of it")
    if by == "model" and any(_keys(recipe) & set(rule.set) for rule in recipe.rules):
        raise RecipeError("expected no rule that sets a weight, as one is learned for each model; learn by tensor")


def coefficients_of(plan: Plan, recipe: Recipe, by: By, start: float | None) -> Coefficients:
    """Returns the table of a plan.

    Args:
        plan: of the recipe's merge.
        recipe: as it was given.
        by: what is a group.
        start: where all start; by default the recipe's own weights, or 0.3 where it gives none.

    Raises:
        RecipeError: when there is nothing to learn, or too much for a recipe.
    """
    lead = 1 if plan.has_base else 0
    n = len(recipe.models)
    if len(plan.inputs) - lead != n:
        raise RecipeError("expected at most 32 adapters, and no method on factors, where coefficients are learned")
    if start is None and not _says_weight(recipe):
        start = START
    places = infer({site.spec.name: site.spec for site in plan.merged}, plan.inputs[0].config).places
    groups: dict[str, int] = {}
    labels: dict[str, int] = {}
    rows: dict[int, tuple[float, ...]] = {}
    scale: dict[str, float] = {}
    for site in plan.merged:
        name, step = site.spec.name, site.steps[-1]
        if step.method.name != COMBINE or site.aside:
            continue
        if [feed.source - lead for feed in site.models] != list(range(n)):
            raise RecipeError(f"{name}: expected a tensor of every model; keep it by a rule, and learn the others")
        if step.values["normalize"]:
            raise RecipeError(f"{name}: {COMBINE} divides by the sum of weights that are learned; leave out normalize")
        if start is None and WEIGHT in step.coefficients:
            raise RecipeError(f"{name}: its weights come from a source; say where learning starts with --start")
        label = _label(places[name], by)
        groups[name] = labels.setdefault(label, len(labels))
        given = (start,) * n if start is not None else _numbers(step.values[WEIGHT])
        rows.setdefault(groups[name], given)
        scale[name] = float(str(step.values["scale"]))
    if not groups:
        raise RecipeError(f"expected tensors merged by {COMBINE}, found none")
    if by != "model" and len(labels) * n > MOST_RULES:
        raise RecipeError(
            f"{len(labels)} x {n} coefficients are more than the {MOST_RULES} rules that a recipe holds; learn by block"
        )
    return Coefficients(by, groups, tuple(labels), tuple(rows[at] for at in range(len(labels))), scale)


def heads_of(plan: Plan) -> list[str]:
    """Returns the tensors of the output that each model has its own of, as a rule keeps them out of the merge.

    They are heads by their role, or lie behind the blocks and have no role that is known.
    """
    specs = {site.spec.name: site.spec for site in plan.merged} | {each.spec.name: each.spec for each in plan.copied}
    places = infer(specs, plan.inputs[0].config).places
    return [each.spec.name for each in plan.copied if _is_head(places[each.spec.name])]


def written(recipe: Recipe, found: Coefficients, values: Sequence[Sequence[float]]) -> Recipe:
    """Returns the recipe with these weights, rounded to 6 digits behind the point."""
    key = min(_keys(recipe), key=len)
    numbers = [[round(float(value), DIGITS) for value in row] for row in values]
    if found.by == "model":
        taken = _keys(recipe)
        entries = []
        for entry, number in zip(recipe.models, numbers[0], strict=True):
            rest = {name: value for name, value in entry.parameters.items() if name not in taken}
            entries.append(entry.model_copy(update={"parameters": {**rest, key: number}}))
        return recipe.model_copy(update={"models": tuple(entries)})
    rules = [
        _rule(found.by, label, model, {key: number})
        for label, row in zip(found.labels, numbers, strict=True)
        for model, number in zip(recipe.names, row, strict=True)
    ]
    return recipe.model_copy(update={"rules": (*recipe.rules, *rules)})


def _rule(by: By, label: str, model: str, numbers: Mapping[str, float]) -> Rule:
    if by == "block":
        return Rule(blocks=label, models=(model,), set=numbers)
    exactly = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in label)
    return Rule(match=(exactly,), models=(model,), set=numbers)


def _label(place: Place, by: By) -> str:
    if by == "tensor":
        return place.name
    if by == "model":
        return "model"
    return str(place.block) if place.block is not None else BEHIND if place.depth > 0.5 else BEFORE


def _is_head(place: Place) -> bool:
    unknown = place.role is Role.OTHER and place.block is None and place.depth > 0.5
    return unknown or place.role.matches("head")


def _keys(recipe: Recipe) -> set[str]:
    """The ways to write the weight: bare where no other step has one, and with its step."""
    alone = len(owners(bind(recipe.method), WEIGHT)) == 1
    return {f"{COMBINE}.{WEIGHT}", *({WEIGHT} if alone else ())}


def _says_weight(recipe: Recipe) -> bool:
    keys = _keys(recipe)
    own = [*(entry.parameters for entry in recipe.models), *(rule.set for rule in recipe.rules)]
    return WEIGHT in recipe.method[-1].parameters or any(keys & set(each) for each in own)


def _numbers(value: object) -> tuple[float, ...]:
    assert isinstance(value, tuple)
    return tuple(float(each) for each in value)
