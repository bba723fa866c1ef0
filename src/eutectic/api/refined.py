"""Recipes with anchors: the plan of what they write, around a stage whose blocks are solved first."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from eutectic.about import VERSION
from eutectic.calibrate.refine import Refinement
from eutectic.checkpoint.source import Checkpoint
from eutectic.engine.refined import Refined, refined
from eutectic.engine.staged import Staged
from eutectic.plan.build import build
from eutectic.plan.inputs import open_inputs
from eutectic.plan.steps import Plan
from eutectic.recipe.model import ModelEntry, Output, Recipe, Step


def plan_refined(
    recipe: Recipe,
    stage: Callable[[Recipe], Checkpoint],
    store: Path,
    budget: int,
    *,
    threads: int | None,
    device: str,
    offline: bool,
) -> Plan:
    """Plans a recipe with anchors: its merge is a stage, whose blocks are solved before it is copied to the output.

    Raises:
        CalibrationError: when its models cannot be run block by block.
        OverBudget: when solving one block takes more than the budget.
    """
    assert recipe.anchors is not None
    said = recipe.anchors
    inner = recipe.model_copy(update={"anchors": None, "output": Output()})
    opened: list[Checkpoint] = []
    try:
        merged = stage(inner)
        opened.append(merged)
        base, models = open_inputs(recipe, stage, offline=offline)
        opened += [*([base] if base else []), *models]
        assert base is not None
        assert isinstance(merged.source, Staged)
        refinement = Refinement(
            said,
            base,
            models,
            recipe.names,
            base if said.start == "base" else merged,
            frozenset(site.spec.name for site in merged.source.plan.merged),
            _weights(recipe) if said.start == "models" else (),
            recipe.seed,
            store,
            budget,
            threads or len(os.sched_getaffinity(0)),
        )
        calibration = refinement.prepare()
        made = refined(refinement, "the merge refined by anchors")
        entry = ModelEntry(recipe=inner, name="refined")
        copies = {"models": (entry,), "method": (Step(method="passthrough"),), "rules": (), "anchors": None}
        outer = recipe.model_copy(update=copies)
        built = build(outer, base, [made], version=VERSION, memory=budget, threads=threads, device=device)
    except BaseException:
        for each in opened:
            each.source.close()
        raise
    return replace(built, recipe=recipe, calibration=replace(calibration, job=built.job))


def _weights(recipe: Recipe) -> tuple[float, ...]:
    """The weight of each model's task vector; the check of the recipe has seen that it is one number."""
    step = recipe.method[0]
    weight, scale = step.parameters.get("weight", 1.0), step.parameters.get("scale", 1.0)
    assert isinstance(weight, int | float)
    assert isinstance(scale, int | float)
    total = float(weight) * float(scale)
    if step.parameters.get("normalize") and weight:
        total = float(scale) / len(recipe.models)
    return (total,) * len(recipe.models)


def refinements(inputs: tuple[Checkpoint, ...]) -> Iterator[Refinement]:
    """Yields every refinement that inputs wait for, inner ones first."""
    for checkpoint in inputs:
        source = checkpoint.source
        if isinstance(source, Staged):
            yield from refinements(source.plan.inputs)
        if isinstance(source, Refined):
            own = source.refinement
            yield from refinements((own.base, *own.models, own.under))
            yield own
