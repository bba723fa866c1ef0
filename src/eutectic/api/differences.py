"""Plans outputs that are differences: an adapter, or dense deltas. Differences are merged around zeros."""

from collections.abc import Sequence
from dataclasses import replace

from eutectic.checkpoint.difference import Difference, Sum, Zeros
from eutectic.checkpoint.source import Checkpoint
from eutectic.engine.bases import Bases, CoordinateSource
from eutectic.engine.factored import FactoredSource, Maker, ranks_for, summary
from eutectic.engine.staged import staged
from eutectic.errors import RecipeError
from eutectic.plan.adapter import build_adapter, crew
from eutectic.plan.build import build, default_memory
from eutectic.plan.dense import dense_sites
from eutectic.plan.factored import FactorSite, Route, factor_sites, is_sum, layout_of, ranked, route_of
from eutectic.plan.steps import Plan
from eutectic.recipe.chain import bind
from eutectic.recipe.model import Recipe


def plan_differences(
    recipe: Recipe,
    base: Checkpoint | None,
    models: Sequence[Checkpoint],
    *,
    version: str,
    memory: int | None = None,
    threads: int | None = None,
    device: str = "cpu",
) -> Plan:
    """Plans a recipe whose output is an adapter or dense deltas; arguments are those of `build`.

    An adapter of a given error needs the spectra of all updates: they are computed here, and tensors are read.

    Raises:
        CheckpointError: when an adapter cannot be read, where spectra are needed.
        MismatchError: when the models do not fit together; everything at once.
        OverBudget: when the budget is too small.
        RecipeError: when the recipe asks for what cannot be.
    """
    budget = default_memory() if memory is None else memory
    deltas = [_as_delta(model, base) for model in models]
    if recipe.output.form == "delta":
        return build(
            recipe,
            _zeros(deltas),
            _checked(recipe, deltas),
            version=version,
            memory=budget,
            threads=threads,
            device=device,
        )
    layout = layout_of(deltas, base.config if base is not None else {})
    route = route_of(recipe, deltas)
    if route is Route.SUM and not is_sum(recipe, deltas, layout):
        route = Route.DENSE
    rest = dense_sites(recipe, deltas, base, layout) if route is Route.DENSE else None
    sites = factor_sites(recipe, deltas, layout, route) if rest is None else rest.sites
    double = recipe.dtype == "float64"
    maker, held, saved = Maker(deltas, recipe.seed, double), 0, None
    if route in (Route.BASIS, Route.DENSE):
        bases = Bases(sites, deltas, recipe.seed, double) if route is Route.BASIS else None
        inner = _inner(recipe, deltas, bases, version, budget // 2, threads)
        merged, held = staged(inner, "merged").source, inner.peak
        maker = Maker(deltas, recipe.seed, double, merged, bases)
        if rest is not None and rest.saved:
            saved = Sum(_needed(base).source, merged, rest.saved)
    sites = _sized(sites, recipe, route, maker, budget - held, threads)
    source = FactoredSource(sites, maker, deltas, "the merged adapter", saved)
    return build_adapter(
        recipe,
        base,
        models,
        sites,
        Checkpoint(source.name, source),
        route=route,
        losses=lambda: summary(source.losses()),
        version=version,
        budget=budget,
        held=held,
        threads=threads,
        rest=rest,
    )


def _needed(base: Checkpoint | None) -> Checkpoint:
    if base is None:
        raise RecipeError("output: rest: save stores whole tensors, which needs the base's; add `base:`")
    return base


def _sized(
    sites: list[FactorSite], recipe: Recipe, route: Route, maker: Maker, budget: int, threads: int | None
) -> list[FactorSite]:
    """Gives sites their ranks: from headers, or from spectra where an error is asked for."""
    if recipe.output.error is None:
        return ranked(sites, recipe, route)
    workers, _ = crew(sites, route, budget, threads or 1)
    return ranks_for(sites, maker, recipe.output.error, recipe.output.rank, workers)


def _inner(
    recipe: Recipe, deltas: Sequence[Checkpoint], bases: Bases | None, version: str, budget: int, threads: int | None
) -> Plan:
    """Plans the merge of updates, or of their coordinates, in work precision."""
    wide = recipe.output.model_copy(update={"dtype": "float64" if recipe.dtype == "float64" else "float32"})
    inner = recipe.model_copy(update={"output": wide})
    shown = list(deltas)
    if bases is not None:
        shown = [replace(each, source=CoordinateSource(bases, at)) for at, each in enumerate(deltas)]
    skip = 0 if bases is None else 1
    return build(
        inner, _zeros(shown), _checked(recipe, shown, skip), version=version, memory=budget, threads=threads, skip=skip
    )


def _as_delta(model: Checkpoint, base: Checkpoint | None) -> Checkpoint:
    if model.deltas:
        return model
    if base is None:
        raise RecipeError(
            f"{model.reference}: is a whole model, and a difference needs what it differs from; add `base:`"
        )
    return replace(model, source=Difference(model.source, base.source), deltas=True)


def _zeros(deltas: Sequence[Checkpoint]) -> Checkpoint:
    source = Zeros(spec for each in deltas for spec in each.source.header.values())
    return Checkpoint(source.name, source)


def _checked(recipe: Recipe, deltas: list[Checkpoint], skip: int = 0) -> list[Checkpoint]:
    """Refuses methods for which merging differences is not the difference of merging."""
    chains = [recipe.method, *(rule.method for rule in recipe.rules if rule.method is not None)]
    for chain in chains:
        for bound in bind(chain)[skip:]:
            if not bound.method.laws.shift:
                raise RecipeError(
                    f"{bound.method.name} of differences is not the difference of {bound.method.name}; write a model "
                    "(form: model), and extract an adapter from it (eutectic adapter extract)"
                )
    return deltas


__all__ = ["plan_differences"]
