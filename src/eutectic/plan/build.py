"""Makes the plan: fates, output layout, schedule, memory, and the digest that identifies the job."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from eutectic.checkpoint.cast import Cast
from eutectic.checkpoint.sidecars import Sidecar
from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.spec import DTYPES, TensorSpec
from eutectic.checkpoint.tasks import extra_name, lay_out_tasks
from eutectic.checkpoint.writer import Shard, ShardLayout, lay_out, lay_out_one
from eutectic.errors import RecipeError
from eutectic.layout.match import compare
from eutectic.methods.extras import BIT
from eutectic.plan.demands import demands
from eutectic.plan.fates import Decider
from eutectic.plan.files import output_files
from eutectic.plan.memory import schedule
from eutectic.plan.readings import readings
from eutectic.plan.spans import check_spans, work_doubles
from eutectic.plan.steps import Dropped, Merged, Plan, read_cost
from eutectic.plan.vocabulary import bridge
from eutectic.quantities import parse_bytes
from eutectic.recipe.model import Recipe

#: Share of the machine's memory that a run may hold when nobody says otherwise.
DEFAULT_SHARE = 0.5
#: The file of merged differences.
DELTA = "delta.safetensors"


def build(
    recipe: Recipe,
    base: Checkpoint | None,
    models: Sequence[Checkpoint],
    *,
    donor: Checkpoint | None = None,
    version: str,
    memory: int | None = None,
    threads: int | None = None,
    device: str = "cpu",
    skip: int = 0,
) -> Plan:
    """Plans a recipe over open checkpoints. No tensor is read.

    Args:
        recipe: what to merge and how.
        base: the open base, if the recipe has one.
        models: the open models, in the recipe's order.
        donor: the open model whose tokenizer the recipe's vocabulary policy takes, if it names one.
        version: of eutectic; part of what decides the output.
        memory: bytes the run may hold; half of the machine's if None.
        threads: workers; one a usable core if None.
        device: `cpu`, or where torch computes.
        skip: how many first steps of every chain the models have behind them.

    Raises:
        MismatchError: when the models do not fit together; everything at once.
        OverBudget: when the budget is too small.
        RecipeError: when the recipe asks for what cannot be.
    """
    _check_deltas(base, models)
    rounded = _roundings(recipe, [*([base] if base else []), *models])
    bridged = bridge(recipe, base, models, donor)
    if bridged is not None:
        base, models = bridged.base, bridged.models
    report = compare(models, base)
    decider = Decider(recipe, report, models, base, bridged.stored if bridged else None, skip)
    fates = decider.decide()
    inputs = (*([base] if base else []), *models)
    check_spans(fates.merged, inputs)
    fingerprints = {str(number): checkpoint.source.fingerprint() for number, checkpoint in enumerate(inputs)}
    metadata = recipe_metadata(recipe)
    tasks = _tasks(recipe, fates.merged, base is not None, metadata)
    if recipe.output.form == "model":
        layout = lay_out(fates.order, recipe.output.shard_size, metadata)
        sidecars = output_files(recipe, base, models, report, decider, fates, bridged)
    else:  # differences are no model, and nothing should take them for one
        layout, sidecars = lay_out_one(fates.order, DELTA, metadata | {"eutectic_deltas": "true"}), ()
    double = work_doubles(recipe, fates.merged)
    budget = default_memory() if memory is None else memory
    planned, held = schedule(
        fates.merged,
        double,
        budget=budget,
        threads=threads or len(os.sched_getaffinity(0)),
        device=device,
        reserved=bridged.reserved if bridged else 0,
    )
    once = [read_cost(site, inputs) for site in fates.merged]
    times = readings(fates.merged, double, planned)
    costs = sum(cost * count for cost, count in zip(once, times, strict=True))
    copies = sum(inputs[each.feed.source].source.read_cost(each.feed.name) for each in fates.copied)
    return Plan(
        recipe,
        inputs,
        base is not None,
        tuple(fates.merged),
        tuple(fates.copied),
        tuple(fates.dropped),
        layout,
        tuple(each for each in sidecars if not each.left_out),
        tuple(Dropped(each.name, each.why) for each in sidecars if each.left_out),
        planned,
        held,
        budget,
        device,
        int(costs) + copies,
        costs / sum(once) if sum(once) else 1.0,
        (*recipe.notes, *rounded, *(bridged.notes if bridged else ()), *report.summary()),
        job_of(recipe, fingerprints, (*layout.shards, *tasks.shards), sidecars, version, device),
        fingerprints,
        tasks,
        demands=demands(fates.merged),
    )


def recipe_metadata(recipe: Recipe) -> dict[str, str]:
    """Returns what a weight file says of itself."""
    return {"format": "pt", "eutectic_recipe": json.dumps(recipe.to_dict(), sort_keys=True)}


def _tasks(recipe: Recipe, merged: Sequence[Merged], has_base: bool, metadata: Mapping[str, str]) -> ShardLayout:
    """Lays out a file for each model's extras, when a method makes any."""
    making = [site for site in merged if site.extras]
    if not making:
        return ShardLayout((), None)
    if recipe.slices:
        name = making[0].steps[-1].method.name
        raise RecipeError(
            f"{name} makes something for each model's task, and slices are not of one model; leave one out"
        )
    specs: list[list[TensorSpec]] = [[] for _ in recipe.names]
    for site in making:
        n = len(site.models)
        for extra in site.extras:
            name = extra_name(site.spec.name, site.steps[-1].method.name, extra.name)
            dtype = DTYPES["U8" if extra.dtype == BIT else extra.dtype]
            spec = TensorSpec(name, extra.stored(site.spec.shape, n) or (), dtype)
            for feed in site.models:
                specs[feed.source - has_base].append(spec)
    return lay_out_tasks(recipe.names, specs, metadata)


def _roundings(recipe: Recipe, inputs: Sequence[Checkpoint]) -> list[str]:
    """Says which inputs are rounded before they are merged."""
    return [
        f"{checkpoint.reference}: rounded to {recipe.input_dtype} before it is merged"
        for checkpoint in inputs
        if isinstance(checkpoint.source, Cast)
    ]


def budget_of(said: str | int | None) -> int:
    """Returns the bytes that a user gave a run, or the default."""
    return default_memory() if said is None else parse_bytes(said)


def default_memory() -> int:
    """Bytes a run may hold when nobody says: half of what the machine, or its control group, has."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        total = min(total, int(limit))
    except (OSError, ValueError):
        pass  # no control group, or "max"
    return int(total * DEFAULT_SHARE)


def _check_deltas(base: Checkpoint | None, models: Sequence[Checkpoint]) -> None:
    """Deltas are differences from something: without a base they cannot be merged into a model."""
    alone = [model.reference for model in models if model.deltas]
    if alone and base is None:
        raise RecipeError(
            f"{alone[0]}: is an adapter, a difference from a base; name the base in the recipe, or write base+adapter"
        )
    if base is not None and base.deltas:
        raise RecipeError(f"{base.reference}: is an adapter and cannot be the base; name the model it was trained on")


def job_of(
    recipe: Recipe,
    fingerprints: Mapping[str, str],
    shards: Sequence[Shard],
    sidecars: Sequence[Sidecar],
    version: str,
    device: str,
) -> str:
    """A digest of everything that decides a byte of the output: equal jobs may resume one another."""
    digest = hashlib.sha256()
    own = [recipe.digest(), version, device.partition(":")[0], json.dumps(fingerprints, sort_keys=True)]
    for text in own:
        digest.update(text.encode() + b"\0")
    for shard in shards:
        digest.update(shard.header)
    for sidecar in sidecars:
        digest.update(sidecar.name.encode() + b"\0" + (sidecar.content or b""))
        if sidecar.source is not None:
            status = sidecar.source.stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()
