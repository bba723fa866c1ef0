"""The plan of an adapter as output: two tensors a module, made by a source and written like copies of it."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eutectic.adapters.peft_folder import CONFIG, WEIGHTS, adapter_config, agreed
from eutectic.checkpoint.sidecars import Sidecar
from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.writer import ShardLayout, lay_out_one
from eutectic.errors import OverBudget, RecipeError
from eutectic.methods.declare import Needs
from eutectic.plan.build import job_of, recipe_metadata
from eutectic.plan.dense import Sorted
from eutectic.plan.factored import FactorSite, Route
from eutectic.plan.memory import SLACK
from eutectic.plan.steps import Copied, Dropped, Feed, Memory, Plan, Schedule
from eutectic.plan.turned import TurnedSite, turned_config
from eutectic.quantities import format_bytes
from eutectic.recipe.model import Recipe

#: Bytes of a copied piece, of which each worker has a buffer.
_PIECE = 4 << 20
#: What decompositions hold at once, in copies of their float64 operands: measured, rounded up.
_COPIES = 6


def making_bytes(site: FactorSite, route: Route) -> int:
    """Bytes that making and cutting one module's update takes."""
    out, columns = site.shape
    sides, dense = out + columns, 4 * out * columns
    most = max((feed.rank for feed in site.feeds), default=0)
    rank = site.rank or min(site.shape)
    summed = site.weights is not None
    ranks = min(site.ranks, site.most + most) if summed else site.ranks
    factors = 4 * sides * max(1, ranks)
    step = site.steps[0].method.needs_for(dict(site.steps[0].values)) if site.steps else None
    if summed and site.ranks <= site.most:
        return factors * 2 + (2 * factors * _COPIES if rank < site.ranks else 0)
    if summed:
        return 2 * factors + dense + _compressing(site, rank)
    if route is Route.METHOD and step is not None:
        own = int(factors + _scratch(site, step, factors) + dense * step.dense)
        cut = _compressing(site, rank) if step.rank == "full" else 2 * factors * _COPIES * (rank < ranks)
        return own + cut
    if route is Route.BASIS and step is not None:
        coordinates = 4 * len(site.feeds) * min(out, site.ranks) * columns
        return int(factors + _scratch(site, step, factors)) + 2 * coordinates + 2 * factors * _COPIES
    return 2 * dense + _compressing(site, rank)


def _scratch(site: FactorSite, needs: Needs, factors: int) -> float:
    """Bytes that a method's function takes beside the factors it is given."""
    if callable(needs.scratch):
        return 4 * needs.scratch(len(site.feeds), site.shape)
    return factors * needs.scratch


def _compressing(site: FactorSite, rank: int) -> int:
    """Bytes of cutting a dense float32 matrix: whole where it is small or the rank is high, else a subspace of it."""
    out, columns = site.shape
    least = min(site.shape)
    if least <= 512 or rank * 4 >= least:
        return 8 * out * columns * 4
    return 8 * (out + columns) * (rank + max(8, rank // 2)) * _COPIES


def crew(sites: Sequence[FactorSite], route: Route, budget: int, threads: int) -> tuple[int, int]:
    """Returns how many workers may make modules at once, and the bytes each takes at most.

    Raises:
        OverBudget: when one is too many.
    """
    dearest = max(sites, key=lambda site: making_bytes(site, route))
    each = making_bytes(dearest, route) + _PIECE
    return min(threads, _fitting(dearest.name, each, budget)), each


def turning_crew(sites: Sequence[TurnedSite], budget: int, threads: int) -> tuple[int, int]:
    """Returns how many workers may merge generators at once, and the bytes each takes at most.

    Raises:
        OverBudget: when one is too many.
        RecipeError: when there are no modules.
    """
    if not sites:
        raise RecipeError("output: the adapters turn no module that is merged")
    dearest = max(sites, key=lambda site: site.nbytes)
    each = dearest.nbytes + _PIECE
    return min(threads, _fitting(dearest.name, each, budget)), each


def _fitting(name: str, each: int, budget: int) -> int:
    """Returns how many workers of so many bytes fit in a budget; at least one, or it is an error."""
    fitting = (budget - SLACK) // each
    if fitting < 1:
        needed = SLACK + each
        raise OverBudget(
            f"{name}: making its update takes {format_bytes(needed)}, and the budget is "
            f"{format_bytes(budget)}; give at least --memory {-(-needed // 2**20)}MiB",
            needed,
        )
    return fitting


def build_adapter(
    recipe: Recipe,
    base: Checkpoint | None,
    models: Sequence[Checkpoint],
    sites: Sequence[FactorSite],
    made: Checkpoint,
    *,
    route: Route,
    losses: Callable[[], Mapping[str, Any]],
    version: str,
    budget: int,
    held: int = 0,
    threads: int | None = None,
    rest: Sorted | None = None,
) -> Plan:
    """Plans an adapter folder whose tensors a source makes. No tensor is read.

    Args:
        recipe: what to merge and how.
        base: the open base, if the recipe has one.
        models: the open models.
        sites: the modules, with their ranks.
        made: the source that makes them.
        route: how.
        losses: what cutting to the ranks lost, once everything is made.
        version: of eutectic.
        budget: bytes the run may hold.
        held: bytes that plans within this one hold.
        threads: workers; one a usable core if None.
        rest: of dense differences, what is not stored as factors.

    Raises:
        OverBudget: when the budget is too small.
        RecipeError: when there is nothing to write.
    """
    if not sites:
        raise RecipeError("output: the models change no tensor that an adapter could hold")
    workers, each = crew(sites, route, budget - held, threads or len(os.sched_getaffinity(0)))
    why = {spec.name: _why(site, recipe) for site in sites for spec in site.specs}
    why |= dict.fromkeys(rest.saved if rest is not None else (), "stored in full")
    return _plan_of(
        recipe,
        base,
        models,
        made,
        why,
        _config(recipe, models, sites, rest),
        workers=workers,
        each=each,
        losses=losses,
        version=version,
        budget=budget,
        held=held,
        dropped=rest.dropped if rest is not None else (),
    )


def build_turned(
    recipe: Recipe,
    base: Checkpoint | None,
    models: Sequence[Checkpoint],
    sites: Sequence[TurnedSite],
    made: Checkpoint,
    *,
    version: str,
    budget: int,
    threads: int | None = None,
    dropped: tuple[Dropped, ...] = (),
) -> Plan:
    """Plans an adapter folder of rotations, whose generators a source makes. No tensor is read.

    Args:
        recipe: what to merge and how.
        base: the open base, if the recipe has one.
        models: the open adapters.
        sites: the modules.
        made: the source that makes them.
        version: of eutectic.
        budget: bytes the run may hold.
        threads: workers; one a usable core if None.
        dropped: tensors of the adapters that are left out.

    Raises:
        OverBudget: when the budget is too small.
        RecipeError: when there is nothing to write.
    """
    fitting, each = turning_crew(sites, budget, threads or len(os.sched_getaffinity(0)))
    method = recipe.method[0].method
    return _plan_of(
        recipe,
        base,
        models,
        made,
        {site.spec.name: f"by {method}, of generators" for site in sites},
        turned_config(recipe, models, sites),
        workers=fitting,
        each=each,
        losses=None,
        version=version,
        budget=budget,
        dropped=dropped,
    )


def _plan_of(
    recipe: Recipe,
    base: Checkpoint | None,
    models: Sequence[Checkpoint],
    made: Checkpoint,
    why: Mapping[str, str],
    config: bytes,
    *,
    workers: int,
    each: int,
    losses: Callable[[], Mapping[str, Any]] | None,
    version: str,
    budget: int,
    held: int = 0,
    dropped: tuple[Dropped, ...] = (),
) -> Plan:
    """A plan that copies what a source makes to an adapter folder; `why` says by name how each tensor is made."""
    inputs = (*([base] if base else []), *models, made)
    specs = [made.source.header[name] for name in why]
    copied = [Copied(spec, Feed(len(inputs) - 1, spec.name, spec.dtype, spec.numel), why[spec.name]) for spec in specs]
    fingerprints = {str(at): checkpoint.source.fingerprint() for at, checkpoint in enumerate(inputs)}
    layout = lay_out_one([each.spec for each in copied], WEIGHTS, recipe_metadata(recipe))
    sidecars = (Sidecar(CONFIG, "how the adapter is applied", config),)
    reads = sum(made.source.read_cost(each.spec.name) for each in copied)
    return Plan(
        recipe,
        inputs,
        base is not None,
        (),
        tuple(copied),
        dropped,
        layout,
        sidecars,
        (),
        Schedule(workers, 0, 0, workers),
        Memory(workers * each + held, 0, SLACK),
        budget,
        "cpu",
        reads,
        1.0,
        (),
        job_of(recipe, fingerprints, layout.shards, sidecars, version, "cpu"),
        fingerprints,
        ShardLayout((), None),
        losses,
    )


def _why(site: FactorSite, recipe: Recipe) -> str:
    chain = ", then ".join(step.method for step in recipe.method)
    of = f" of {site.ranks}" if site.feeds else ""
    return f"by {chain}, rank {site.rank}{of}"


def _config(recipe: Recipe, models: Sequence[Checkpoint], sites: Sequence[FactorSite], rest: Sorted | None) -> bytes:
    adapters = [model.config for model in models if model.deltas]
    layers = [site for site in sites if not site.embedding]
    return adapter_config(
        {site.key: site.rank for site in sites},
        transposed=bool(layers) and all(site.transposed for site in layers),
        saved=rest.modules if rest is not None else (),
        biases=rest is not None and rest.biases,
        task=agreed(adapters, "task_type") if adapters else None,
        base_name=recipe.base or (agreed(adapters, "base_model_name_or_path") if adapters else None),
    )
