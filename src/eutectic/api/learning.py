"""Learns the coefficients of a recipe from unlabelled data; what comes of it is a recipe with numbers."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eutectic.api.recipes import read
from eutectic.api.runs import calibrate, download, plan
from eutectic.api.statistics import open_store
from eutectic.calibrate.entropy import tasks_of
from eutectic.calibrate.prepare import jobs
from eutectic.engine.events import Observer
from eutectic.engine.meter import Meter
from eutectic.engine.staged import staged
from eutectic.errors import CalibrationError, OutputError, OverBudget
from eutectic.plan.build import budget_of
from eutectic.quantities import format_bytes
from eutectic.recipe.model import Output, Recipe
from eutectic.search.adamerging import used
from eutectic.search.coefficients import By, check_recipe, coefficients_of, heads_of, written
from eutectic.search.learning import (
    Descent,
    Learning,
    deltas_bytes,
    descend_from,
    facts,
    held,
    kept_within,
    state_of,
)

#: Words of a file's or a split's name that say it is what models are judged by.
_TEST = re.compile(r"(?<![a-z])(test|tests|testing)(?![a-z])")


@dataclass(frozen=True)
class Learned:
    """What learning found.

    Attributes:
        recipe: the given one with the learned numbers; it needs no data, unless another step of its chain does.
        labels: what the groups of coefficients are called.
        coefficients: as they merge, (groups, n).
        losses: the sum of the tasks' mean entropies before each step, in nats.
        seconds: this run took.
        memory: bytes at most, measured and planned.
        said: how they were learned, in a line.
    """

    recipe: Recipe
    labels: tuple[str, ...]
    coefficients: tuple[tuple[float, ...], ...]
    losses: tuple[float, ...]
    seconds: float
    memory: Mapping[str, int]
    said: str

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the recipe, with a comment that says how it was learned.

        Raises:
            OutputError: when its relative paths would not be found from there, or the file cannot be written.
        """
        target = Path(os.fspath(path))
        check_place(self.recipe, target)
        try:
            target.write_text(f"# {self.said}\n{self.recipe.to_yaml()}", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{target}: cannot be written: {error.strerror}") from error


def check_place(recipe: Recipe, target: Path) -> None:
    """Checks that a recipe's relative paths are found from a file's folder.

    Raises:
        OutputError: when not.
    """
    root = (recipe.root or Path()).resolve()
    if target.parent.resolve() == root:
        return
    named = [recipe.base, *(entry.model for entry in recipe.models)]
    relative = next((name for name in named if name and not Path(name).is_absolute() and (root / name).exists()), None)
    if relative is not None:
        raise OutputError(f"{target}: {relative} is found from {root}; write the learned recipe there")


def plan_learning(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str],
    *,
    by: By = "tensor",
    steps: int = 500,
    rate: float = 1e-3,
    batches: int = 2,
    start: float | None = None,
    clamp: bool = True,
    transductive: bool = False,
    memory: str | int | None = None,
    threads: int | None = None,
    offline: bool = False,
    store: str | os.PathLike[str] | None = None,
) -> Learning:
    """Plans to learn the weights of a recipe's task arithmetic: what is shown, held and stored. Runs no model.

    Args:
        recipe: with a base, a calibration section, and a chain that ends in `task_arithmetic`.
        by: what has a coefficient of its own for each model: a `tensor` (published as layer-wise), a `block`, or the
            whole `model` (task-wise).
        steps: of Adam.
        rate: of Adam.
        batches: batches a task and step, each of the recipe's `calibration.batch`.
        start: where coefficients start; by default the recipe's own weights, or 0.3 where it gives none.
        clamp: keep coefficients from 0 to 1.
        transductive: allow data that its name calls test data.
        memory: as in `plan`; task vectors are kept in what is left of it.
        threads: as in `plan`.
        offline: do not download.
        store: where the state of learning is kept, so that the same call goes on after a stop.

    Raises:
        CalibrationError: when data, tokenizer or head are missing or do not fit.
        OverBudget: when model, gradient and activations do not fit in memory.
        RecipeError: when the recipe has nothing to learn.
        CheckpointError: as `plan`.
        MismatchError: as `plan`.
    """
    how = Descent(steps, rate, batches, clamp, transductive)
    given = read(recipe)
    check_positive({"steps": steps, "batches": batches, "rate": rate})
    check_recipe(given, by)
    check_held_out(given, transductive)
    budget = budget_of(memory)
    shown = given.model_copy(update={"output": Output(dtype="float32")})

    def made(room: int) -> Learning:
        planned = plan(shown, memory=room, threads=threads, offline=offline, store=store)
        try:
            found = coefficients_of(planned, given, by, start)
            output = staged(planned, "the merged model")
            tasks = tuple(tasks_of(planned, jobs(planned, every=True), output, heads_of(planned)))
            memory_of = held(planned, found, tasks)
            kept = kept_within(planned, found, budget - sum(memory_of.values()))
            size = sum(deltas_bytes(site) for site in planned.merged if site.spec.name in kept)
            results = open_store(store).results(facts(planned, found, how, tasks))
        except BaseException:
            for each in planned.inputs:
                each.source.close()
            raise
        return Learning(given, planned, found, how, tasks, kept, {**memory_of, "deltas": size}, budget, results)

    try:
        learning = made(budget)
    except OverBudget as error:  # planned with what merging needs, to learn what the rest needs
        learning = made(error.needed)
    if learning.peak <= budget:
        return learning
    learning.close()
    fixed = learning.peak - learning.plan.memory.peak
    try:
        return made(max(budget - fixed, 1))
    except OverBudget as error:
        needed = fixed + error.needed
        raise OverBudget(
            f"learning holds the merged model, its gradient and a batch's activations, {format_bytes(fixed)} beside "
            f"what merging takes, and the budget is {format_bytes(budget)}; give at least --memory "
            f"{-(-needed // 2**20)}MiB, or take a smaller batch or max_length",
            needed,
        ) from error


def learn(learning: Learning, *, watch: Sequence[Observer] = ()) -> Learned:
    """Learns, and returns the recipe with the learned numbers; `Learned.save` writes it.

    The state is stored after every step: stopped, the same call goes on with the next one, to the same numbers.

    Args:
        learning: from `plan_learning`.
        watch: functions called with events.

    Raises:
        CalibrationError: when predictions are not finite.
        CheckpointError: when an input cannot be read.
        OutputError: when the state cannot be stored.
    """
    begun = time.perf_counter()
    download(learning.plan.inputs, watch)
    calibrate(learning.plan, watch=watch)
    state = state_of(learning)
    with Meter() as meter:
        if len(state.losses) < learning.how.steps:
            state = descend_from(learning, state, watch)
    found, how = learning.coefficients, learning.how
    values = tuple(tuple(row) for row in used(state.raw, how.clamp).tolist())
    each = "model" if found.by == "model" else f"{found.by} and model"
    tokens = "test inputs" if how.transductive else "data of its own"
    said = (
        f"learned by AdaMerging, a weight for each {each}, in {how.steps} steps on {tokens}: entropy "
        f"{state.losses[0]:.4f} to {state.losses[-1]:.4f}, seed {learning.recipe.seed}"
    )
    return Learned(
        written(learning.recipe, found, values),
        found.labels,
        values,
        state.losses,
        round(time.perf_counter() - begun, 3),
        {"budget": learning.budget, "planned": learning.peak, "peak": meter.peak, "before": meter.before},
        said,
    )


def check_held_out(recipe: Recipe, transductive: bool) -> None:
    """Checks that no data is called test data, unless that was asked for.

    Raises:
        CalibrationError: when some is.
    """
    said = recipe.calibration
    if said is None or transductive:
        return
    for reference in said.data.values():
        if _TEST.search(reference.rpartition("/")[2].lower()):
            raise CalibrationError(
                f"calibration.data: {reference}: expected data that the result will not be judged by, found test data "
                "by its name; name other data, or ask for --transductive"
            )


def check_positive(numbers: Mapping[str, float]) -> None:
    """Checks that settings are above 0.

    Raises:
        CalibrationError: when one is not.
    """
    for name, value in numbers.items():
        if value <= 0:
            raise CalibrationError(f"{name}: expected a number above 0, found {value}")


__all__ = ["Descent", "Learned", "Learning", "check_held_out", "learn", "plan_learning"]
