"""From a recipe to the concrete values of one output tensor: rules, roles, blocks, depth and slices worked out."""

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from eutectic.errors import RecipeError
from eutectic.layout.layout import Place
from eutectic.methods.declare import Method, Parameter
from eutectic.recipe.chain import Bound, bind, miscount, owners
from eutectic.recipe.check import check
from eutectic.recipe.model import BASE, Recipe, Rule, Slice
from eutectic.recipe.values import Coefficient, Gradient, LinesScale, NanWeights, Ordered, Value


@dataclass(frozen=True)
class ResolvedStep:
    """One method of the chain that makes a tensor, with every parameter concrete.

    Attributes:
        method: the method.
        values: by parameter; float, int, bool or str, and for per-model parameters a tuple with one number per input.
        coefficients: per-model parameters whose numbers a statistic gives; these are not in `values`.
    """

    method: Method[Any]
    values: Mapping[str, object]
    coefficients: Mapping[str, NanWeights]

    def only(self, present: Sequence[int], n: int) -> "ResolvedStep":
        """Returns the step with the per-model values of some of the n models: those that hold the tensor."""
        if len(present) == n:
            return self
        per_model = {own.name for own in self.method.parameters if own.bounds.per_model}
        values = {
            name: tuple(value[at] for at in present) if name in per_model and isinstance(value, tuple) else value
            for name, value in self.values.items()
        }
        return ResolvedStep(self.method, values, self.coefficients)


@dataclass(frozen=True)
class SiteInput:
    """One model's tensor at a site.

    Attributes:
        model: its name in `Recipe.names`, or `base`.
        block: which of its blocks to read; the output's own unless the recipe has slices; None outside the blocks.
    """

    model: str
    block: int | None


class Resolver:
    """The values of a recipe, tensor by tensor.

    `stack` is the prefix of the blocks that the recipe's slices cut (`model.layers`), for models that have several.

    Raises:
        RecipeError: when the recipe does not pass its static checks; all problems at once.
    """

    def __init__(self, recipe: Recipe, *, stack: str | None = None) -> None:
        check(recipe)
        self.recipe, self.stack = recipe, stack
        self._places = {name: place for place, name in enumerate(recipe.names)}
        self._main = bind(recipe.method)
        self._rules = [_Selector(rule) for rule in recipe.rules]
        #: First output block of every slice, and the number of all.
        self._starts = list(accumulate((piece.sources[0].length for piece in recipe.slices), initial=0))
        self._resolved: dict[tuple[tuple[int, ...], int | None, float, float | None], tuple[ResolvedStep, ...]] = {}

    @property
    def blocks(self) -> int | None:
        """Number of output blocks that the slices make; None without slices."""
        return self._starts[-1] if self.recipe.slices else None

    def inputs_for(self, place: Place) -> tuple[SiteInput, ...]:
        """Returns which tensors meet at an output tensor, in the order of the per-model values.

        Without slices these are all models. With slices they are the sources of the slice the tensor's block is in;
        before the blocks those of the first slice, behind them those of the last.

        Raises:
            RecipeError: when the slices do not reach the tensor's block.
        """
        at = self._slice_of(place)
        if at is None:
            return tuple(SiteInput(name, place.block) for name in self._places)
        return tuple(
            SiteInput(self._called(source.model), self._shifted(place, at, source.blocks[0]))
            for source in self.recipe.slices[at].sources
        )

    def base_block_for(self, place: Place) -> int | None:
        """Returns which block of the base belongs to an output tensor; None outside the blocks."""
        at = self._slice_of(place)
        if at is None:
            return place.block
        piece = self.recipe.slices[at]
        return self._shifted(place, at, (piece.base_blocks or piece.sources[0].blocks)[0])

    def keep_for(self, place: Place) -> str | None:
        """Returns the model (or `base`) that the tensor is taken from unchanged; None when it is merged."""
        for selector in reversed(self._rules):
            if (selector.rule.keep or selector.rule.method) and selector.match(place):
                keep = selector.rule.keep
                return keep if keep is None else self._called(keep)
        return None

    def steps_for(self, place: Place) -> tuple[ResolvedStep, ...]:
        """Returns the chain that makes an output tensor: transforms, then one combine.

        A value is the last of: the method's default, the chain's, the model's, the slice's, the slice source's,
        the rules' in order.

        Raises:
            RecipeError: when a required value is missing or a value is out of bounds; names model, parameter, tensor.
        """
        rules = tuple(number for number, selector in enumerate(self._rules) if selector.match(place))
        key = (rules, self._slice_of(place), place.depth, _depth_in_blocks(place))
        if key not in self._resolved:
            self._resolved[key] = self._resolve(place, [self._rules[number] for number in rules])
        return self._resolved[key]

    def _resolve(self, place: Place, selectors: list["_Selector"]) -> tuple[ResolvedStep, ...]:
        chain = next((own.chain for own in reversed(selectors) if own.chain is not None), self._main)
        inputs = tuple(entry.model for entry in self.inputs_for(place))
        for bound in chain:
            text = miscount(bound.method, len(inputs), self.recipe.base is not None and BASE not in inputs)
            if text:
                raise RecipeError(f"{place.name}: {text}")
        settings = _Settings(chain, inputs)
        for step, bound in enumerate(chain):
            settings.give_step(step, bound.step.parameters)
        for number, name in enumerate(inputs):
            if name != BASE:
                settings.give(self.recipe.models[self._places[name]].parameters, (number,))
        piece = self._piece(place)
        if piece is not None:
            settings.give(piece.parameters, None)
            for number, source in enumerate(piece.sources):
                settings.give(source.parameters, (number,))
        for selector in selectors:
            named = selector.rule.models
            called = None if named is None else {self._called(reference) for reference in named}
            only = None if called is None else [number for number, name in enumerate(inputs) if name in called]
            settings.give(selector.rule.set, only)
        return settings.finish(place)

    def _slice_of(self, place: Place) -> int | None:
        """The slice that a tensor belongs to; None without slices."""
        if not self.recipe.slices:
            return None
        if place.block is None or self.stack not in {None, place.stack}:
            return len(self.recipe.slices) - 1 if place.block is None and place.depth > 0.5 else 0
        for number, stop in enumerate(self._starts[1:]):
            if place.block < stop:
                return number
        raise RecipeError(f"{place.name}: the slices make {self.blocks} blocks, so there is no block {place.block}")

    def _piece(self, place: Place) -> Slice | None:
        at = self._slice_of(place)
        return None if at is None else self.recipe.slices[at]

    def _shifted(self, place: Place, at: int, first: int) -> int | None:
        if place.block is None or self.stack not in {None, place.stack}:
            return place.block
        return first + place.block - self._starts[at]

    def _called(self, reference: str) -> str:
        """The name of a model that the recipe names by name or reference; `base` stays."""
        if reference == BASE or reference in self._places:
            return reference
        number = self.recipe.find(reference)
        return BASE if number is None else self.recipe.names[number]


class _Selector:
    """A rule with its patterns compiled, for it is asked about every tensor."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.chain = None if rule.method is None else bind(rule.method)
        self._names = [re.compile(fnmatch.translate(pattern)) for pattern in rule.match or ()]

    def match(self, place: Place) -> bool:
        """Whether all selectors of the rule match."""
        rule = self.rule
        if rule.match is not None and not any(pattern.match(place.name) for pattern in self._names):
            return False
        if rule.role is not None and not any(place.role.matches(pattern) for pattern in rule.role):
            return False
        return rule.covers(place.block, place.depth)


class _Settings:
    """The parameters of a chain while layers of values are laid over one another: later ones win."""

    def __init__(self, chain: Bound, inputs: tuple[str, ...]) -> None:
        self.chain, self.inputs = chain, inputs
        self.values: list[dict[str, list[Value | None]]] = [  # None: nobody gave it yet
            {
                own.name: [None if own.required else own.default] * (len(inputs) if own.bounds.per_model else 1)
                for own in bound.method.parameters
            }
            for bound in chain
        ]

    def give_step(self, step: int, given: Mapping[str, Value]) -> None:
        """Lays the values written with a step over its defaults."""
        for name, value in given.items():
            self.values[step][name] = [value] * len(self.values[step][name])

    def give(self, given: Mapping[str, Value], only: Iterable[int] | None) -> None:
        """Lays values over those so far, for all inputs or `only` some; names that this chain lacks mean another."""
        for name, value in given.items():
            for step, own in owners(self.chain, name):
                row = self.values[step][own.name]
                if only is None:
                    row[:] = [value] * len(row)
                elif own.bounds.per_model:
                    for number in only:
                        row[number] = value

    def finish(self, place: Place) -> tuple[ResolvedStep, ...]:
        """Returns the values at a tensor, each in its declared kind."""
        steps = []
        for bound, rows in zip(self.chain, self.values, strict=True):
            values: dict[str, object] = {}
            coefficients: dict[str, NanWeights] = {}
            for own in bound.method.parameters:
                row = rows[own.name]
                source = next((value for value in row if isinstance(value, Coefficient)), None)
                if source is not None and all(value == source for value in row):
                    if isinstance(source, Ordered):
                        values[own.name] = source.source().weights(len(row))
                    else:
                        coefficients[own.name] = source
                    continue
                read = tuple(
                    self._concrete(bound.method.name, own, value, place, number) for number, value in enumerate(row)
                )
                values[own.name] = read if own.bounds.per_model else read[0]
            steps.append(ResolvedStep(bound.method, values, coefficients))
        return tuple(steps)

    def _concrete(self, method: str, own: Parameter, value: Value | None, place: Place, number: int) -> object:
        whom = f" of {self.inputs[number]}" if own.bounds.per_model else ""
        if value is None:
            raise RecipeError(
                f"{place.name}: {method} needs a {own.name}{whom}, found none; give it at the model or with the method"
            )
        if isinstance(value, Coefficient):
            raise RecipeError(
                f"{place.name}: {method}: {own.name} comes from a source for all models, but some have a number;"
                f" write {method}.{own.name} where only one is meant"
            )
        if isinstance(value, LinesScale):
            value = value.at(_depth_in_blocks(place), len(self.inputs))
        if isinstance(value, tuple):
            value = at_depth(value, place.depth)
        if value is own.default:
            return float(value) if own.kind == "float" and isinstance(value, int) else value
        read: object = own.check(value, f"{place.name}: {method}{whom}")
        return read


def _depth_in_blocks(place: Place) -> float | None:
    """Returns how far through the blocks a tensor is; None outside them, and 0 for an only block."""
    if place.block is None:
        return None
    return place.depth if place.block else 0.0


def at_depth(gradient: Gradient, depth: float) -> float:
    """Returns the gradient's value at a share `depth` in [0, 1] of the way: evenly spread numbers, lines between."""
    position = min(max(depth, 0.0), 1.0) * (len(gradient) - 1)
    left = min(int(position), len(gradient) - 2)
    share = position - left
    return gradient[left] * (1.0 - share) + gradient[left + 1] * share
