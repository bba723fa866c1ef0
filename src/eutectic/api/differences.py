"""Plans outputs that are differences: an adapter, or dense deltas. Differences are merged around zeros."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from eutectic import spectra
from eutectic.adapters.lora import turned_against
from eutectic.checkpoint.difference import Difference, Sum, Zeros
from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.views import digest_of
from eutectic.engine.bases import Bases, CoordinateSource
from eutectic.engine.factored import FactoredSource, Maker, ranks_for, summary
from eutectic.engine.staged import staged
from eutectic.engine.turned import TurnedSource
from eutectic.engine.updates import UpdateSource
from eutectic.errors import RecipeError
from eutectic.methods.declare import Domain
from eutectic.plan.adapter import build_adapter, build_turned, crew, turning_crew
from eutectic.plan.build import build, default_memory
from eutectic.plan.dense import Sorted, dense_sites
from eutectic.plan.factored import FactorSite, Route, factor_sites, is_sum, layout_of, ranked, route_of
from eutectic.plan.steps import Plan
from eutectic.plan.turned import joins_generators, turned_config, turned_sites
from eutectic.recipe.chain import bind, calibrated
from eutectic.recipe.model import ModelEntry, Output, Recipe, Step

#: From more adapters than this, sums for a model are taken of factors: element by element, every slice reads them all.
MANY = 32


@dataclass(frozen=True)
class _Made:
    """How an adapter is made: its modules, what makes their updates, what else it holds, and bytes that are held."""

    sites: list[FactorSite]
    maker: Maker
    route: Route
    held: int
    rest: Sorted | None
    saved: Sum | None


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
    _check_data(recipe)
    budget = default_memory() if memory is None else memory
    if recipe.output.form == "adapter" and joins_generators(recipe, models):
        sites, dropped = turned_sites(recipe, models, layout_of(models, base.config if base is not None else {}))
        joined = TurnedSource(sites, models, "the merged adapter", recipe.digest())
        whole = Checkpoint(joined.name, joined)
        return build_turned(
            recipe, base, models, sites, whole, version=version, budget=budget, threads=threads, dropped=dropped
        )
    deltas = [_as_delta(model, base) for model in models]
    if recipe.output.form == "delta":
        zeros = _zeros(deltas, base)
        shown = _checked(recipe, deltas)
        return build(recipe, zeros, shown, version=version, memory=budget, threads=threads, device=device)
    made = _prepare(recipe, base, deltas, budget, threads, version)
    source = FactoredSource(made.sites, made.maker, deltas, "the merged adapter", made.saved)
    return build_adapter(
        recipe,
        base,
        models,
        made.sites,
        Checkpoint(source.name, source),
        route=made.route,
        losses=lambda: summary(source.losses()),
        version=version,
        budget=budget,
        held=made.held,
        threads=threads,
        rest=made.rest,
    )


def merged_updates(
    recipe: Recipe, models: Sequence[Checkpoint], *, under: Checkpoint | None, version: str, memory: int, name: str
) -> tuple[Checkpoint, int]:
    """Opens what a recipe makes of adapters as deltas, to be merged with others around a base.

    Without a rank and an error in the recipe nothing is cut off. `under` is the base that the adapters were fitted to;
    it is closed with them.

    Returns:
        The checkpoint, and the bytes that reading it holds at most.

    Raises:
        MismatchError: when the adapters do not fit together; everything at once.
        OverBudget: when the memory is too small.
        RecipeError: when a model is no plain adapter, or the method does not work on factors.
    """
    if joins_generators(recipe, models):
        return _merged_rotations(recipe, models, under, memory, name)
    made = _prepare(recipe, None, models, memory, 1, version, cut=False)
    if made.route is Route.DENSE:
        raise RecipeError(
            f"{name}: expected a weighted sum of LoRA adapters, or a method on factors, for form: adapter; leave it "
            "out of this stage, and updates are merged as differences"
        )
    workers, each = crew(made.sites, made.route, memory - made.held, 1)
    kept = max(8 * site.shape[0] * site.shape[1] for site in made.sites)  # two dense updates
    parts = (*models, *([under] if under is not None else []))
    source = UpdateSource(made.sites, made.maker, parts, name, recipe.digest())
    return Checkpoint(name, source, deltas=True), workers * each + made.held + kept


def _merged_rotations(
    recipe: Recipe, models: Sequence[Checkpoint], under: Checkpoint | None, memory: int, name: str
) -> tuple[Checkpoint, int]:
    """Opens what a recipe makes of adapters of rotations as one, fitted to their base."""
    assert under is not None  # such adapters cannot be opened without
    wide = recipe.model_copy(update={"output": recipe.output.model_copy(update={"dtype": "float64"})})
    sites, _ = turned_sites(wide, models, layout_of(models, under.config))
    _, each = turning_crew(sites, memory, 1)
    made = TurnedSource(sites, models, name, recipe.digest(), (*models, under))
    config = json.loads(turned_config(recipe, models, sites))
    return turned_against(under, made, config, name), each


def is_many_summed(recipe: Recipe, models: Sequence[Checkpoint]) -> bool:
    """Whether a recipe for a model adds so many adapters that they are better summed as factors first."""
    if len(models) <= MANY or recipe.base is None or recipe.slices or route_of(recipe, models) is not Route.SUM:
        return False
    return is_sum(recipe, models, layout_of(models, {}))


def works_on_factors(recipe: Recipe) -> bool:
    """Whether a chain of the recipe begins with a method in the domain FACTORS."""
    chains = [recipe.method, *(rule.method for rule in recipe.rules if rule.method is not None)]
    return any(bind(chain)[0].method.needs.domain is Domain.FACTORS for chain in chains)


def around_factors(recipe: Recipe) -> Recipe:
    """Returns the recipe for which one that makes a model of adapters is short: a stage merges them, the base is added.

    Raises:
        RecipeError: when it names no base.
    """
    if recipe.base is None:
        raise RecipeError(f"{recipe.method[0].method}: a model is its base with the updates added; add `base:`")
    inside = recipe.model_copy(update={"base": None, "output": Output(form="adapter")})
    outside = {"models": (ModelEntry(recipe=inside),), "method": (Step(method="task_arithmetic"),), "rules": ()}
    return recipe.model_copy(update=outside)


def _prepare(
    recipe: Recipe,
    base: Checkpoint | None,
    deltas: Sequence[Checkpoint],
    budget: int,
    threads: int | None,
    version: str,
    cut: bool = True,
) -> _Made:
    """Works out how an adapter is made; `cut` gives every module the rank that its factors are written with."""
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
        inner = _inner(recipe, base, deltas, bases, version, budget // 2, threads)
        merged, held = staged(inner, "merged").source, inner.peak
        maker = Maker(deltas, recipe.seed, double, merged, bases)
        if rest is not None and rest.saved:
            saved = Sum(_needed(base).source, merged, rest.saved)
    if cut or recipe.output.rank is not None or recipe.output.error is not None:
        digest = digest_of(version, recipe.digest(), *(each.source.fingerprint() for each in deltas))
        sites = _sized(sites, recipe, route, maker, budget - held, threads, digest)
    return _Made(sites, maker, route, held, rest, saved)


def _needed(base: Checkpoint | None) -> Checkpoint:
    if base is None:
        raise RecipeError("output: rest: save stores whole tensors, which needs the base's; add `base:`")
    return base


def _sized(
    sites: list[FactorSite],
    recipe: Recipe,
    route: Route,
    maker: Maker,
    budget: int,
    threads: int | None,
    digest: str,
) -> list[FactorSite]:
    """Gives sites their ranks: from headers, or from spectra where an error is asked for, kept by the digest."""
    if recipe.output.error is None:
        return ranked(sites, recipe, route)
    known = spectra.known(digest, frozenset(site.name for site in sites))
    if known is not None:
        return [replace(site, rank=known[site.name]) for site in sites]
    workers, _ = crew(sites, route, budget, threads or 1)
    found = ranks_for(sites, maker, recipe.output.error, recipe.output.rank, workers)
    spectra.record(digest, {site.name: site.rank for site in found})
    return found


def _inner(
    recipe: Recipe,
    base: Checkpoint | None,
    deltas: Sequence[Checkpoint],
    bases: Bases | None,
    version: str,
    budget: int,
    threads: int | None,
) -> Plan:
    """Plans the merge of updates, or of their coordinates, in work precision."""
    wide = recipe.output.model_copy(update={"dtype": "float64" if recipe.dtype == "float64" else "float32"})
    inner = recipe.model_copy(update={"output": wide})
    shown = list(deltas)
    if bases is not None:
        shown = [replace(each, source=CoordinateSource(bases, at)) for at, each in enumerate(deltas)]
    skip = 0 if bases is None else 1
    zeros, checked = _zeros(shown, base), _checked(recipe, shown, skip)
    return build(inner, zeros, checked, version=version, memory=budget, threads=threads, skip=skip)


def _as_delta(model: Checkpoint, base: Checkpoint | None) -> Checkpoint:
    if model.deltas:
        return model
    if base is None:
        raise RecipeError(
            f"{model.reference}: is a whole model, and a difference needs what it differs from; add `base:`"
        )
    return replace(model, source=Difference(model.source, base.source), deltas=True)


def _zeros(deltas: Sequence[Checkpoint], base: Checkpoint | None) -> Checkpoint:
    source = Zeros(spec for each in deltas for spec in each.source.header.values())
    return Checkpoint(source.name, source, config=base.config if base is not None else {})


def _check_data(recipe: Recipe) -> None:
    """Refuses methods that look at data: models are run, and differences are none."""
    for chain in (recipe.method, *(rule.method for rule in recipe.rules if rule.method is not None)):
        looking = next((bound.method.name for bound in bind(chain) if calibrated(bound)), None)
        if looking is not None:
            raise RecipeError(
                f"{looking} looks at data, so it makes a model, and not {recipe.output.form}: write one (form: model), "
                "and extract an adapter from it (eutectic adapter extract)"
            )


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


__all__ = ["around_factors", "is_many_summed", "merged_updates", "plan_differences", "works_on_factors"]
