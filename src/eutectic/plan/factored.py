"""An adapter as output: which modules it updates, from which stored factors, how, and of what rank. Headers only.

A site in the domain FACTORS is a module that adapters update. What is made there takes one of four routes, chosen for
the whole recipe from the declarations of its chain:

    SUM      the chain is a plain weighted sum, which it says of itself as data: factors are put side by side
    METHOD   a combine of the domain FACTORS sees the stored factors and returns factors, or a dense update
    BASIS    a transform of that domain gives the updates coordinates; the rest of the chain merges those
    DENSE    anything else merges the updates themselves around zeros

Whatever comes out is then cut to the rank that the recipe asks for.
"""

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eutectic.adapters.edits import Edit
from eutectic.adapters.sources import DeltaSource
from eutectic.adapters.stored import Pair
from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.spec import DTYPES, TORCH_NAMES, DType, TensorSpec
from eutectic.errors import MismatchError, RecipeError, UndeclaredNeed
from eutectic.layout.infer import infer
from eutectic.layout.layout import Layout
from eutectic.methods.declare import Domain
from eutectic.methods.site import Site
from eutectic.numerics.draw import Key
from eutectic.numerics.stages import Combination
from eutectic.recipe.chain import bind
from eutectic.recipe.model import BASE, Recipe
from eutectic.recipe.resolve import ResolvedStep, Resolver

#: Matrices whose shorter side is at most this are small.
_SMALL = 512


class Route(enum.Enum):
    """How the update of a module is made; see the module's docstring."""

    SUM = "sum"
    METHOD = "method"
    BASIS = "basis"
    DENSE = "dense"


@dataclass(frozen=True)
class FactorFeed:
    """One adapter's stored factors at a site: the model's place in the recipe, where they are, and their rank."""

    model: int
    pair: Pair
    rank: int


@dataclass(frozen=True)
class FactorSite:
    """A module that the output adapter updates.

    Attributes:
        name: its weight, as the base calls it, or the first adapter without one.
        key: the module's name in the output, without PEFT's prefix.
        shape: (d_out, d_in) of the update as a matrix; the kernel's axes belong to d_in.
        kernel: the kernel's axes of a convolution; none otherwise.
        embedding: stored as an embedding's factors.
        transposed: the base keeps the weight as (d_in, d_out).
        feeds: the adapters that have it; none on the dense route.
        steps: the chain, its per-model values those of the feeds.
        weights: one a feed, where the chain is a plain sum.
        dtype: the stored type of the output's factors.
        rank: columns of the output's B; 0 while it waits for a spectrum.
    """

    name: str
    key: str
    shape: tuple[int, int]
    kernel: tuple[int, ...]
    embedding: bool
    transposed: bool
    feeds: tuple[FactorFeed, ...]
    steps: tuple[ResolvedStep, ...]
    weights: tuple[float, ...] | None
    dtype: DType
    rank: int = 0

    @property
    def ranks(self) -> int:
        """The sum of the feeds' ranks: what an exact sum's rank is at most."""
        return sum(feed.rank for feed in self.feeds)

    @property
    def most(self) -> int:
        """The sum of ranks up to which a sum stays factored.

        The shorter side where nothing is cut off: no update has a higher rank. Where factors are decomposed the dense
        matrix is cheaper much earlier, unless it is small.
        """
        least = min(self.shape)
        return least if self.rank == self.ranks else least // 2 if least <= _SMALL else least // 8

    @property
    def specs(self) -> tuple[TensorSpec, TensorSpec]:
        """The two tensors of the output, A and B, by PEFT's names."""
        stem, (out, columns) = f"base_model.model.{self.key}", self.shape
        if self.embedding:
            names, a, b = ("lora_embedding_A", "lora_embedding_B"), (self.rank, columns), (out, self.rank)
            return (
                TensorSpec(f"{stem}.{names[0]}", a, self.dtype),
                TensorSpec(f"{stem}.{names[1]}", b, self.dtype),
            )
        inputs = columns // math.prod(self.kernel)
        ones = (1,) * len(self.kernel)
        return (
            TensorSpec(f"{stem}.lora_A.weight", (self.rank, inputs, *self.kernel), self.dtype),
            TensorSpec(f"{stem}.lora_B.weight", (out, self.rank, *ones), self.dtype),
        )

    @property
    def dense_shape(self) -> tuple[int, ...]:
        """The shape of the base's tensor."""
        out, columns = self.shape
        if self.transposed:
            return columns, out
        return out, columns // math.prod(self.kernel), *self.kernel

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """The shape of the update as the base keeps it, flattened to a matrix."""
        return (self.shape[1], self.shape[0]) if self.transposed else self.shape


def route_of(recipe: Recipe, models: Sequence[Checkpoint]) -> Route:
    """Returns the route of a recipe's chain.

    Raises:
        RecipeError: when methods on factors stand where they cannot, or models of the recipe are no plain adapters.
    """
    chains = [bind(recipe.method), *(bind(rule.method) for rule in recipe.rules if rule.method is not None)]
    heads = {
        tuple(bound.method.name for bound in chain if bound.method.needs.domain is Domain.FACTORS) for chain in chains
    }
    if heads == {()}:
        plain = all(_plain(model) for model in models)
        return Route.SUM if plain and all(len(chain) == 1 for chain in chains) else Route.DENSE
    if len(heads) > 1:
        raise RecipeError(
            "rules: an output is made on factors or not, everywhere; give every chain the same first method"
        )
    whole = next((model.reference for model in models if not _plain(model)), None)
    name = chains[0][0].method.name
    if whole is not None:
        raise RecipeError(
            f"{name} works on the stored factors of LoRA adapters, and {whole} has none everywhere (a full model, "
            "DoRA, or tensors stored in full); extract an adapter first (eutectic adapter extract)"
        )
    return Route.METHOD if chains[0][0].method.combines else Route.BASIS


def _plain(model: Checkpoint) -> bool:
    """Whether a model is an adapter that changes nothing but by products of two factors."""
    source = model.source
    return isinstance(source, DeltaSource) and all(_is_product(edit) for edit in source.adapter.edits.values())


def _is_product(edit: Edit) -> bool:
    plain = edit.magnitude is None and edit.full is None and edit.shift is None
    return plain and edit.pair is not None and edit.pair.experts == 1


def factor_sites(recipe: Recipe, models: Sequence[Checkpoint], layout: Layout, route: Route) -> list[FactorSite]:
    """Lists the modules of an adapter made from plain adapters, with the chain at each, in the order they are met.

    Args:
        recipe: what to merge and how.
        models: the open adapters.
        layout: what the tensors' names mean, from the base or from `layout_of`.
        route: SUM, METHOD or BASIS.

    Raises:
        MismatchError: when adapters disagree about a module; everything at once.
        RecipeError: when a value is missing or out of bounds.
    """
    found: dict[str, list[tuple[int, Edit, TensorSpec, TensorSpec]]] = {}
    for number, model in enumerate(models):
        assert isinstance(model.source, DeltaSource)  # the route says so
        adapter = model.source.adapter
        for name, edit in adapter.edits.items():
            assert edit.pair is not None
            a, b = adapter.file.header[edit.pair.a], adapter.file.header[edit.pair.b]
            found.setdefault(name, []).append((number, edit, a, b))
    resolver, problems, sites = Resolver(recipe), [], []
    for name, parts in found.items():
        kinds = {(part[2].shape[1:], part[3].shape[0], embedded(part[1])) for part in parts}
        if len(kinds) > 1:
            shapes = ", ".join(str(part[1].shape) for part in parts[:5])
            problems.append(f"{name}: the adapters update tensors of different shapes or kinds: {shapes}")
            continue
        keep = resolver.keep_for(layout.places[name])
        if keep == BASE:
            continue
        steps = resolver.steps_for(layout.places[name])
        weights = _sum_of(steps, len(models), name) if route is Route.SUM else None
        if keep is not None:
            weights = tuple(float(each == keep) for each in recipe.names)
        present = [part[0] for part in parts]
        steps = tuple(step.only(present, len(models)) for step in steps)
        _, edit, a, b = parts[0]
        assert edit.pair is not None
        wanted = recipe.output.dtype
        sites.append(
            FactorSite(
                name,
                edit.module,
                (b.shape[0], a.numel // a.shape[0]),
                tuple(a.shape[2:]),
                embedded(edit),
                edit.pair.transposed,
                tuple(FactorFeed(number, each.pair, spec.shape[0]) for number, each, spec, _ in parts if each.pair),
                steps,
                None if weights is None else tuple(weights[number] for number in present),
                DTYPES[TORCH_NAMES[wanted]] if wanted in TORCH_NAMES else a.dtype,
            )
        )
    if problems:
        raise MismatchError("the adapters do not fit together:\n  " + "\n  ".join(problems[:20]))
    return sites


def ranked(sites: Sequence[FactorSite], recipe: Recipe, route: Route) -> list[FactorSite]:
    """Gives every site the rank that follows from headers: what is asked for, and no more than the update can have.

    Raises:
        RecipeError: when the update can have any rank, and the recipe bounds neither it nor the error.
    """
    return [replace(site, rank=_rank(site, recipe, route)) for site in sites]


def _rank(site: FactorSite, recipe: Recipe, route: Route) -> int:
    asked, least = recipe.output.rank, min(site.shape)
    natural: int | None = site.ranks
    if route is Route.DENSE or (site.weights is not None and site.ranks > least):
        natural = None
    elif route is Route.METHOD and site.weights is None:
        kind = site.steps[0].method.needs_for(dict(site.steps[0].values)).rank
        natural = {"sum": site.ranks, "max": max(feed.rank for feed in site.feeds), "full": None}[kind]
    elif route is Route.BASIS:
        apart = site.steps[0].method.needs_for(dict(site.steps[0].values)).basis == "factors"
        natural = max(feed.rank for feed in site.feeds) if apart else min(site.ranks, least)
    if natural is None and asked is None:
        chain = ", then ".join(step.method for step in recipe.method)
        raise RecipeError(
            f"{site.name}: what {chain} makes of {len(site.feeds) or 'these'} inputs may have any rank up to {least}; "
            "say how much of it an adapter keeps: output: {form: adapter, rank: 64}, or error: 0.05"
        )
    return min(each for each in (natural, asked, least if natural is None else None) if each is not None)


def layout_of(models: Sequence[Checkpoint], config: Mapping[str, Any]) -> Layout:
    """Returns what the names of everything that differences change mean; `config` is the base's, or empty."""
    header: dict[str, TensorSpec] = {}
    for model in models:
        for name, spec in model.source.header.items():
            header.setdefault(name, spec)
    return infer(header, config)


def is_sum(recipe: Recipe, models: Sequence[Checkpoint], layout: Layout) -> bool:
    """Whether the chain is a plain weighted sum at every tensor, by what it says of itself."""
    resolver = Resolver(recipe)
    names = {name for model in models for name in model.source.header}
    places = (layout.places[name] for name in sorted(names))
    return all(_sum_of(resolver.steps_for(place), len(models), place.name) is not None for place in places)


def _sum_of(steps: Sequence[ResolvedStep], n: int, name: str) -> tuple[float, ...] | None:
    """Returns the coefficients of a chain that is a plain weighted sum; None where it is another."""
    step = steps[0]
    if len(steps) > 1 or step.method.fused is None or step.coefficients:
        return None
    try:
        described = step.method.fused(Site(name, n, Key(0, name), {}), **step.values)
    except UndeclaredNeed:  # it reads a statistic
        return None
    if not isinstance(described, Combination) or described.average != "sum" or described.stages:
        return None
    return tuple(described.scale * weight for weight in described.weight)


def embedded(edit: Edit) -> bool:
    """Whether an update is stored as an embedding's factors."""
    return edit.pair is not None and "lora_embedding_" in edit.pair.a
