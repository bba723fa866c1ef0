"""Carries out recipes: plan, run; and looks at what came of them: verify, diff."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from eutectic import speed
from eutectic.about import VERSION
from eutectic.adapters.sources import share_memory
from eutectic.api import models
from eutectic.api.differences import around_factors, is_many_summed, merged_updates, plan_differences, works_on_factors
from eutectic.api.recipes import read
from eutectic.api.refined import plan_refined, refinements
from eutectic.api.statistics import Statistics, open_store
from eutectic.calibrate.own import given
from eutectic.calibrate.prepare import prepare
from eutectic.calibrate.run import calibrate as run_calibration
from eutectic.checkpoint.model_card import Parent, model_card, read_licence
from eutectic.checkpoint.open import open_source
from eutectic.checkpoint.remote import materialise
from eutectic.checkpoint.sidecars import RECEIPT, RECIPE
from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.tasks import open_task_file, task_files, task_name
from eutectic.diagnose.difference import TensorDifference, compare_checkpoints
from eutectic.engine.events import Calibrating, Event, Finished, Observer, Progress, Started
from eutectic.engine.receipt import Receipt
from eutectic.engine.run import run as run_plan
from eutectic.engine.staged import staged
from eutectic.engine.staging import finished
from eutectic.engine.verify import Verification
from eutectic.engine.verify import verify as verify_plan
from eutectic.errors import CheckpointError, OverBudget, RecipeError
from eutectic.numerics.tensors import torch
from eutectic.plan.build import budget_of, build
from eutectic.plan.inputs import open_donor, open_inputs
from eutectic.plan.steps import Plan
from eutectic.recipe.model import Recipe
from eutectic.recipe.parse import read_recipe


def plan(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str],
    *,
    memory: str | int | None = None,
    threads: int | None = None,
    device: str = "cpu",
    offline: bool = False,
    store: str | os.PathLike[str] | None = None,
    statistics: Sequence[Statistics] | None = None,
) -> Plan:
    """Plans a recipe: what is read, held, written, and what becomes of every tensor. Reads headers only.

    Args:
        recipe: a recipe, its data, or its file.
        memory: what the run may hold, such as `"4 GiB"`; half of the machine's by default. The interpreter and
            libraries are not counted.
        threads: workers; one a usable core by default.
        device: `cpu`, or `cuda`.
        offline: do not download.
        store: where results of calibration are kept; the user's cache folder by default.
        statistics: instead of a calibration section, what `eutectic.statistics` found of each model, in their order.

    Raises:
        CalibrationError: when the recipe's method looks at data, and that is missing or does not fit.
        RecipeError: when the recipe asks for what cannot be.
        CheckpointError: when a model is missing or broken.
        MismatchError: when the models do not fit together; everything at once.
        OverBudget: when the budget is too small; says the least that works.
    """
    read_one = read(recipe)
    _check_device(device)
    budget = budget_of(memory)
    kept = open_store(store)
    planned = _plan(read_one, budget, threads, device, offline, kept.folder)
    try:
        calibration = prepare(planned, kept.folder) if statistics is None else given(planned, statistics)
    except BaseException:
        for each in planned.inputs:
            each.source.close()
        raise
    if calibration is None:
        return planned
    job = hashlib.sha256(f"{planned.job} {calibration.digest}".encode()).hexdigest()
    return replace(planned, calibration=calibration, job=job)


def _check_device(device: str) -> None:
    if device == "cpu":  # needs no torch
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecipeError(f"expected cpu or a device that torch finds here, found {device!r}: {reason}") from error


def _plan(recipe: Recipe, budget: int, threads: int | None, device: str, offline: bool, store: Path) -> Plan:
    if threads is not None and threads < 1:
        raise RecipeError(f"expected at least one thread, found {threads}")
    if recipe.output.form == "model" and recipe.anchors is None and works_on_factors(recipe):
        recipe = around_factors(recipe)
    stages = sum(1 for entry in recipe.models if entry.recipe is not None)
    share = budget // (stages + 1)
    held: list[int] = []
    short: list[OverBudget] = []

    def stage(inner: Recipe) -> Checkpoint:
        if inner.output.form == "adapter":
            return updates(inner)
        # A stage's tensors are handed on in work precision: its own output type would round a second time.
        if inner.output.dtype == "as-base":
            wide = inner.output.model_copy(update={"dtype": "float64" if inner.dtype == "float64" else "float32"})
            inner = inner.model_copy(update={"output": wide})
        try:
            planned = _plan(inner, share, threads, device, offline, store)
        except OverBudget as error:  # planned with what it needs, to learn what the others need
            short.append(error)
            planned = _plan(inner, error.needed, threads, device, offline, store)
        if planned.demands:
            for each in planned.inputs:
                each.source.close()
            chain = ", then ".join(step.method for step in inner.method)
            raise RecipeError(
                f"recipe {len(held) + 1}: {chain} looks at data, which a stage has none of; merge it first"
            )
        held.append(planned.peak)
        return staged(planned, f"recipe {len(held)}")

    def updates(inner: Recipe) -> Checkpoint:
        # Names and orientation are the base's, so that what the stage makes fits it.
        inner = inner.model_copy(update={"base": inner.base or recipe.base})
        under, adapters = open_inputs(inner, stage, offline=offline)
        make = partial(merged_updates, inner, adapters, under=under, version=VERSION, name=f"recipe {len(held) + 1}")
        try:
            made, peak = make(memory=share)
        except OverBudget as error:
            short.append(error)
            made, peak = make(memory=error.needed)
        held.append(peak)
        return made

    if recipe.anchors is not None:
        return plan_refined(recipe, stage, store, budget, threads=threads, device=device, offline=offline)
    base, models = open_inputs(recipe, stage, offline=offline)
    share_memory([each.source for each in models])
    room = share if short else budget - sum(held)
    donor = None
    try:
        if recipe.output.form == "model" and is_many_summed(recipe, models):
            for each in [*([base] if base else []), *models]:
                each.source.close()
            return _plan(around_factors(recipe), budget, threads, device, offline, store)
        if recipe.output.form == "model":
            donor = open_donor(recipe, offline=offline)
            make = partial(build, donor=donor)
        else:
            make = partial(plan_differences)
        built = make(recipe, base, models, version=VERSION, memory=room, threads=threads, device=device)
        if short:
            raise short.pop()
    except BaseException as error:
        for each in [*([base] if base else []), *models, *([donor] if donor else [])]:
            each.source.close()
        if stages and isinstance(error, OverBudget):
            raise _over_all([*short, error], stages + 1) from error
        raise
    return built


def _over_all(short: Sequence[OverBudget], parts: int) -> OverBudget:
    """Says what a recipe with stages needs: each of its parts gets an equal share."""
    worst = max(short, key=lambda error: error.needed)
    needed = parts * worst.needed
    text = f"{str(worst).partition('; give')[0]}; with its stages it takes {parts} times that, so give at least"
    return OverBudget(f"{text} --memory {-(-needed // 2**20)}MiB", needed)


def check_output(plan: Plan, out: str | os.PathLike[str]) -> None:
    """Checks that the output folder can be used, before any work.

    Raises:
        OutputError: when something else than this job's own output is there.
    """
    finished(Path(os.fspath(out)), plan.job)


def run(plan: Plan, out: str | os.PathLike[str], *, resume: bool = True, watch: Sequence[Observer] = ()) -> Receipt:
    """Carries out a plan. The output folder appears whole or not at all.

    Hub models that were planned from their headers are downloaded first, at the commit that was planned.

    Args:
        plan: from `plan`.
        out: a new or empty folder, or this very job's finished output (then nothing is done).
        resume: go on where an earlier run of this job was stopped; False starts over.
        watch: functions called with events.

    Raises:
        OutputError: when the folder cannot be used, or the disk is full or fails; what is done stays for a resume.
        CheckpointError: when an input cannot be downloaded or read, changed meanwhile, or a result is not finite.
        MismatchError: when buffers that must be equal are not.
    """
    target = Path(os.fspath(out))
    if finished(target, plan.job) is None:
        download(plan.inputs, watch)
        calibrate(plan, watch=watch)
    receipt = run_plan(plan, target, version=VERSION, resume=resume, watch=watch, card=_card(plan, target.name))
    speed.record(plan.reads + plan.writes, receipt.seconds)
    return receipt


def calibrate(plan: Plan, *, watch: Sequence[Observer] = ()) -> None:
    """Takes the statistics that a plan's methods ask for and the store lacks; `run` does so by itself.

    Interrupted, it goes on with the blocks whose results are not stored.

    Raises:
        CalibrationError: when data, tokenizer, head or labels do not fit a model, or its activations are not finite.
        OutputError: when the results cannot be stored.
    """
    waiting = [each for each in refinements(plan.inputs) if not each.blocks().finished]
    if not waiting and (plan.calibration is None or all(plan.calibration.finished)):
        return
    download(plan.inputs, watch)

    def tell(done: int, total: int, doing: str) -> None:
        for observer in watch:
            observer(Calibrating(done, total, doing))

    for each in waiting:
        each.run(tell)
    if plan.demands:
        run_calibration(plan, merged=lambda: staged(plan, "the merged model"), tell=tell)


def download(inputs: Sequence[Checkpoint], watch: Sequence[Observer] = ()) -> None:
    """Downloads what of the inputs is not here, and tells how far it is.

    Raises:
        CheckpointError: when it cannot be downloaded.
    """

    def tell(done: int, total: int) -> None:
        for observer in watch:
            observer(Progress(done, total, "downloading"))

    materialise((hub for checkpoint in inputs for hub in checkpoint.hub), tell)


def _card(plan: Plan, name: str) -> str:
    parents = [
        Parent(
            checkpoint.reference,
            checkpoint.revision,
            read_licence(checkpoint.folder) if checkpoint.folder else None,
            plan.has_base and number == 0,
        )
        for number, checkpoint in enumerate(plan.read)
    ]
    method = ", then ".join(step.method for step in plan.recipe.method)
    return model_card(name, method, plan.recipe.to_yaml(), parents)


def verify(
    out: str | os.PathLike[str],
    *,
    sample: int | None = 16,
    memory: str | int | None = None,
    threads: int | None = None,
    root: str | os.PathLike[str] | None = None,
    store: str | os.PathLike[str] | None = None,
) -> Verification:
    """Checks an output: makes sampled or all tensors again from its own recipe and compares every byte.

    Args:
        out: a folder that eutectic wrote.
        sample: how many tensors, spread evenly; all if None.
        memory: as in `plan`.
        threads: as in `plan`.
        root: where the recipe's relative paths start; the working directory by default.
        store: as in `plan`.

    Raises:
        CheckpointError: when the folder has no receipt, or its tensors are not those its recipe makes.
    """
    folder = Path(os.fspath(out))
    if not (folder / RECIPE).is_file() or not (folder / RECEIPT).is_file():
        raise CheckpointError(f"{folder}: expected an output of eutectic with {RECIPE} and {RECEIPT}, found none")
    recipe = read_recipe(folder / RECIPE, root=Path(os.fspath(root)) if root is not None else Path())
    before = _fingerprints(folder / RECEIPT)
    planned = plan(recipe, memory=memory, threads=threads, store=store)
    with ExitStack() as opened:
        for each in planned.inputs:
            opened.enter_context(_closing(each))
        download(planned.inputs)
        calibrate(planned)
        if planned.recipe.output.form == "model":
            output = opened.enter_context(_closing(models.open(folder))).source
        else:
            output = opened.enter_context(closing(open_source(folder / planned.layout.shards[0].filename)))
        tasks = [opened.enter_context(closing(open_task_file(path))) for path in task_files(folder)]
        found = verify_plan(planned, output, sample, tasks)
    now = [planned.fingerprints[str(number)] for number in range(len(planned.read))]
    changed = tuple(checkpoint.reference for checkpoint, a, b in zip(planned.read, before, now, strict=False) if a != b)
    return Verification(found.checked, found.differing, changed)


def specialise(out: str | os.PathLike[str], task: str | int, *, base: str | os.PathLike[str] | None = None) -> Recipe:
    """Makes the recipe of one task's model from an output that holds parts for several; `plan` and `run` carry it out.

    Args:
        out: a folder that a method with parts for each task wrote, such as EMR-Merging.
        task: the task's name, which is the name of a model in the recipe of `out`, or its number from 1.
        base: the base that `out` was merged around, where it is not where its receipt says, or was copied.

    Raises:
        CheckpointError: when a file of `out` is broken.
        RecipeError: when `out` holds no parts for tasks, or none for this one; suggests the nearest.
    """
    folder = os.fspath(out)
    name = task_name(Path(folder), str(task))
    entry = {"model": folder, "task": name, "name": name}
    return read({"models": [entry if base is None else {**entry, "base": os.fspath(base)}], "method": "passthrough"})


def _fingerprints(path: Path) -> list[str]:
    """What a receipt says its inputs were."""
    try:
        inputs = json.loads(path.read_text())["inputs"]
        return [str(each["fingerprint"]) for each in inputs]
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{path}: expected a receipt of eutectic, found {reason}") from error


def diff(
    first: Checkpoint | str | os.PathLike[str],
    second: Checkpoint | str | os.PathLike[str],
    *,
    threads: int | None = None,
) -> list[TensorDifference]:
    """Compares two checkpoints tensor by tensor: distance, relative distance, cosine; most changed first.

    Raises:
        CheckpointError: when a model is missing or broken.
    """
    with ExitStack() as opened:
        one, other = (
            each if isinstance(each, Checkpoint) else opened.enter_context(_closing(models.open(each)))
            for each in (first, second)
        )
        download((one, other))
        return compare_checkpoints(one, other, threads or len(os.sched_getaffinity(0)))


@contextmanager
def _closing(checkpoint: Checkpoint) -> Iterator[Checkpoint]:
    try:
        yield checkpoint
    finally:
        checkpoint.source.close()


__all__ = [
    "Calibrating",
    "Event",
    "Finished",
    "Plan",
    "Progress",
    "Receipt",
    "Started",
    "TensorDifference",
    "Verification",
    "calibrate",
    "check_output",
    "diff",
    "download",
    "plan",
    "run",
    "specialise",
    "speed",
    "verify",
]
