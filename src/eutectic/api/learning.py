"""Learns the coefficients of a recipe from unlabelled data; what comes of it is a recipe with numbers."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eutectic.api.recipes import read
from eutectic.api.runs import Plan, calibrate, download, plan
from eutectic.api.statistics import open_store
from eutectic.calibrate.entropy import Entropy, Task, tasks_of
from eutectic.calibrate.prepare import backward_bytes, head_facts, jobs, section
from eutectic.engine.events import Calibrating, Observer
from eutectic.engine.meter import Meter
from eutectic.engine.staged import Staged, staged
from eutectic.engine.weighted import Weighted
from eutectic.errors import CalibrationError, OutputError, OverBudget
from eutectic.numerics.kernels import GRAIN
from eutectic.numerics.tensors import Tensor, torch
from eutectic.plan.build import default_memory
from eutectic.plan.steps import Merged
from eutectic.quantities import format_bytes, parse_bytes
from eutectic.recipe.model import Output, Recipe
from eutectic.search.adamerging import Learnt, adamerging, used
from eutectic.search.coefficients import By, Coefficients, check_recipe, coefficients_of, heads_of, written
from eutectic.stats.store import Outcome, Results

_STATE = "state"
#: Elements of a slice of deltas: they pass through torch, in several copies.
SHOWN = 2 * GRAIN
#: Words of a file's or a split's name that say it is what models are judged by.
_TEST = re.compile(r"(?<![a-z])(test|tests|testing)(?![a-z])")


@dataclass(frozen=True)
class Descent:
    """How coefficients are moved; the defaults are the paper's.

    Attributes:
        steps, rate: of Adam.
        batches: a task and step, each of the recipe's `calibration.batch`.
        clamp: use coefficients cut to 0 to 1.
        transductive: test inputs were asked for.
    """

    steps: int = 500
    rate: float = 1e-3
    batches: int = 2
    clamp: bool = True
    transductive: bool = False


@dataclass(frozen=True)
class Learning:
    """What learning will do and hold. No model was run to make it.

    Attributes:
        recipe: as it was given.
        plan: of its merge; its schedule leaves room for the rest.
        coefficients: what is learned, and where it starts.
        how: the descent.
        tasks: data, module and head of each model.
        kept: the tensors whose deltas stay in memory; those of the others are read twice a step.
        memory: bytes by what holds them.
        budget: bytes that may be held.
        results: where the state is kept after each step.
    """

    recipe: Recipe
    plan: Plan
    coefficients: Coefficients
    how: Descent
    tasks: tuple[Task, ...]
    kept: frozenset[str]
    memory: Mapping[str, int]
    budget: int
    results: Results

    @property
    def peak(self) -> int:
        """Bytes held at most, the interpreter and libraries not counted."""
        return sum(self.memory.values())

    @property
    def done(self) -> int:
        """Steps that an earlier run has made and stored."""
        return len(_state(self).losses)

    @property
    def read_again(self) -> int:
        """Bytes of a step's readings of what is not kept."""
        sites = [site for site in self.plan.merged if site.spec.name in self.coefficients.groups]
        away = [site for site in sites if site.spec.name not in self.kept]
        return 2 * sum(self.plan.inputs[f.source].source.read_cost(f.name) for s in away for f in s.feeds if not f.zero)

    def close(self) -> None:
        """Closes the inputs."""
        for each in self.plan.inputs:
            each.source.close()

    def explain(self) -> str:
        """Returns the plan as a page of text."""
        found, how = self.coefficients, self.how
        samples = ", ".join(f"{len(task.job.samples.rows)} of {task.job.samples.reference}" for task in self.tasks)
        again = f"{format_bytes(self.read_again)} read again in every step"
        coefficients = f"{len(found.labels)} x {len(self.recipe.models)} coefficients by {found.by}"
        shown = f"{len(self.tasks)} x {how.batches} batches of {section(self.plan).batch}"
        parts = ", ".join(f"{format_bytes(size)} {what}" for what, size in self.memory.items())
        lines = [
            f"learns    {coefficients}, of {len(found.groups)} tensors, by the entropy of predictions",
            f"data      {samples}{'; test inputs, as asked' if how.transductive else ''}",
            f"steps     {how.steps}, {self.done} of them done; each shows {shown}, forward and backward",
            f"deltas    {again if self.read_again else 'read once and kept in memory'}",
            f"memory    {format_bytes(self.peak)} of {format_bytes(self.budget)} at most: {parts}",
            f"state     {self.results.folder}",
        ]
        return "\n".join(lines)

    def describe(self) -> dict[str, Any]:
        """Returns the plan as plain data."""
        return {
            "by": self.coefficients.by,
            "groups": len(self.coefficients.labels),
            "models": list(self.recipe.names),
            "tensors": len(self.coefficients.groups),
            "samples": [len(task.job.samples.rows) for task in self.tasks],
            "steps": self.how.steps,
            "done": self.done,
            "transductive": self.how.transductive,
            "read_again": self.read_again,
            "memory": {"budget": self.budget, "peak": self.peak, **self.memory},
            "state": str(self.results.folder),
        }


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
    _check(how)
    check_recipe(given, by)
    check_held_out(given, transductive)
    budget = parse_bytes(memory) if memory is not None else default_memory()
    shown = given.model_copy(update={"output": Output(dtype="float32")})

    def made(room: int) -> Learning:
        planned = plan(shown, memory=room, threads=threads, offline=offline, store=store)
        try:
            found = coefficients_of(planned, given, by, start)
            output = staged(planned, "the merged model")
            tasks = tuple(tasks_of(planned, jobs(planned, every=True), output, heads_of(planned)))
            held = _held(planned, found, tasks)
            kept = _kept(planned, found, budget - sum(held.values()))
            size = sum(_deltas_bytes(site) for site in planned.merged if site.spec.name in kept)
            results = open_store(store).results(_facts(planned, found, how, tasks))
        except BaseException:
            _close(planned)
            raise
        return Learning(given, planned, found, how, tasks, kept, {**held, "deltas": size}, budget, results)

    learning = made(budget)
    if learning.peak <= budget:
        return learning
    _close(learning.plan)
    fixed = learning.peak - learning.plan.memory.peak
    try:
        return made(max(budget - fixed, 0))
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
    state = _state(learning)
    with Meter() as meter:
        if len(state.losses) < learning.how.steps:
            state = _descend(learning, state, watch)
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


def _check(how: Descent) -> None:
    for name, value in (("steps", how.steps), ("batches", how.batches), ("rate", how.rate)):
        if value <= 0:
            raise CalibrationError(f"{name}: expected a number above 0, found {value}")


def _close(planned: Plan) -> None:
    for each in planned.inputs:
        each.source.close()


def _held(planned: Plan, found: Coefficients, tasks: Sequence[Task]) -> dict[str, int]:
    """Bytes of what is held all the time, by what it is."""
    sizes = {site.spec.name: 4 * site.spec.numel for site in planned.merged}
    return {
        "weights": planned.layout.nbytes + sum(task.kept for task in tasks),
        "gradient": sum(sizes[name] for name in found.groups),
        "a batch": max(backward_bytes(planned, task.job) for task in tasks),
        "slices": planned.memory.peak + planned.schedule.threads * SHOWN * 4 * (len(planned.inputs) + 1) * 6,
    }


def _deltas_bytes(site: Merged) -> int:
    return 4 * site.spec.numel * (len(site.models) + 1)


def _kept(planned: Plan, found: Coefficients, room: int) -> frozenset[str]:
    """The tensors whose deltas fit, in the order of the output."""
    kept = set()
    for site in planned.merged:
        if site.spec.name in found.groups and _deltas_bytes(site) <= room:
            kept.add(site.spec.name)
            room -= _deltas_bytes(site)
    return frozenset(kept)


def _facts(planned: Plan, found: Coefficients, how: Descent, tasks: Sequence[Task]) -> dict[str, Any]:
    """All that the numbers depend on, as plain data."""
    said, data = section(planned), [task.job for task in tasks]
    return {
        "statistic": f"coefficients by {found.by}, {how.steps} steps",
        "model": "the merged model",
        "samples": sum(len(job.samples.rows) for job in data),
        "data": ", ".join(dict.fromkeys(job.samples.reference for job in data)),
        "merge": planned.job,
        "start": found.start,
        "rate": how.rate,
        "batches": how.batches,
        "clamp": how.clamp,
        "batch": said.batch,
        "max_length": said.max_length,
        "content": [job.samples.digest for job in data],
        "processing": [job.processor.digest() for job in data],
        "weights": [job.weights.fingerprint for job in data],
        "heads": [head_facts(planned, job) for job in data],
    }


def _state(learning: Learning) -> Learnt:
    """Where an earlier run of the same learning stopped, or the start."""
    results = learning.results
    if not results.has(_STATE):
        return Learnt.start(torch.tensor(learning.coefficients.start))
    raw, mean, square, losses = (results.measured(name).load() for name in ("raw", "mean", "square", "losses"))
    results.close()
    return Learnt(raw, mean, square, tuple(losses.tolist()))


def _descend(learning: Learning, state: Learnt, watch: Sequence[Observer]) -> Learnt:
    """Goes on from a state to the last step."""
    found, how, results = learning.coefficients, learning.how, learning.results
    entropy = Entropy(learning.plan, learning.tasks, how.batches)  # makes heads, before the weights take their room
    specs = {site.spec.name: site.spec for site in learning.plan.merged}
    parameters = {name: torch.nn.Parameter(torch.empty(specs[name].shape)) for name in found.groups}
    values_of = {name: parameter.detach() for name, parameter in parameters.items()}
    schedule = learning.plan.schedule
    small = replace(schedule, slice_elements=min(schedule.slice_elements, SHOWN))
    output = Staged(replace(learning.plan, schedule=small), "the merged model")
    reached = set().union(*(task.load(parameters) for task in learning.tasks))
    weighted = Weighted(output, found.scale, learning.kept)

    def descend(values: Tensor, step: int) -> tuple[float, Tensor]:
        rows = values.tolist()
        weighted.merge({name: rows[at] for name, at in found.groups.items()}, values_of)
        loss = entropy.add_gradients(step)
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        derivatives = torch.zeros(values.shape, dtype=torch.float64)
        for name, row in weighted.inner(gradients).items():
            derivatives[found.groups[name]] += torch.tensor(row, dtype=torch.float64)
        for parameter in parameters.values():
            parameter.grad = None
        return loss, derivatives

    def hear(now: Learnt) -> None:
        losses = torch.tensor(now.losses)
        tensors = {"raw": now.raw, "mean": now.mean, "square": now.square, "losses": losses}
        results.write(_STATE, {name: Outcome(len(now.losses), 0, tensor) for name, tensor in tensors.items()})
        for observer in watch:
            observer(Calibrating(len(now.losses), how.steps, f"learning, entropy {now.losses[-1]:.3f}"))

    if not reached:
        raise CalibrationError("expected weights that the models run with among what is learned, found none")
    state = adamerging(state, descend, steps=how.steps, rate=how.rate, clamp=how.clamp, hear=hear)
    results.finish()
    return state


__all__ = ["Descent", "Learned", "Learning", "check_held_out", "learn", "plan_learning"]
