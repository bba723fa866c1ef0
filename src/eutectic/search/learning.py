"""Learning the coefficients of one recipe: what it holds, and the descent over merged weights and data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eutectic.calibrate.entropy import Entropy, Task
from eutectic.calibrate.prepare import backward_bytes, head_facts, section
from eutectic.engine.events import Calibrating, Observer
from eutectic.engine.staged import Staged
from eutectic.engine.weighted import Weighted
from eutectic.errors import CalibrationError
from eutectic.numerics.kernels import GRAIN
from eutectic.numerics.tensors import Tensor, torch
from eutectic.plan.steps import Merged, Plan
from eutectic.quantities import format_bytes
from eutectic.recipe.model import Recipe
from eutectic.search.adamerging import Learnt, adamerging
from eutectic.search.coefficients import Coefficients
from eutectic.stats.store import Outcome, Results

_STATE = "state"
#: Elements of a slice of deltas: they pass through torch, in several copies.
SHOWN = 2 * GRAIN


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
        return len(state_of(self).losses)

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


def held(planned: Plan, found: Coefficients, tasks: Sequence[Task]) -> dict[str, int]:
    """Bytes of what is held all the time, by what it is."""
    sizes = {site.spec.name: 4 * site.spec.numel for site in planned.merged}
    return {
        "weights": planned.layout.nbytes + sum(task.kept for task in tasks),
        "gradient": sum(sizes[name] for name in found.groups),
        "a batch": max(backward_bytes(planned, task.job) for task in tasks),
        "slices": planned.memory.peak + SHOWN * 4 * (len(planned.inputs) + 1) * 6,
    }


def deltas_bytes(site: Merged) -> int:
    """Bytes of a tensor's base and deltas."""
    return 4 * site.spec.numel * (len(site.models) + 1)


def kept_within(planned: Plan, found: Coefficients, room: int) -> frozenset[str]:
    """The tensors whose deltas fit, in the order of the output."""
    kept = set()
    for site in planned.merged:
        if site.spec.name in found.groups and deltas_bytes(site) <= room:
            kept.add(site.spec.name)
            room -= deltas_bytes(site)
    return frozenset(kept)


def facts(planned: Plan, found: Coefficients, how: Descent, tasks: Sequence[Task]) -> dict[str, Any]:
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


def state_of(learning: Learning) -> Learnt:
    """Where an earlier run of the same learning stopped, or the start."""
    results = learning.results
    if not results.has(_STATE):
        return Learnt.start(torch.tensor(learning.coefficients.start))
    raw, mean, square, losses = (results.measured(name).load() for name in ("raw", "mean", "square", "losses"))
    results.close()
    return Learnt(raw, mean, square, tuple(losses.tolist()))


def descend_from(learning: Learning, state: Learnt, watch: Sequence[Observer]) -> Learnt:
    """Goes on from a state to the last step."""
    found, how, results = learning.coefficients, learning.how, learning.results
    entropy = Entropy(learning.plan, learning.tasks, how.batches)  # makes heads, before the weights take their room
    specs = {site.spec.name: site.spec for site in learning.plan.merged}
    parameters = {name: torch.nn.Parameter(torch.empty(specs[name].shape)) for name in found.groups}
    values_of = {name: parameter.detach() for name, parameter in parameters.items()}
    schedule = learning.plan.schedule
    small = replace(schedule, slice_elements=min(schedule.slice_elements, SHOWN))
    output = Staged(replace(learning.plan, schedule=small), "the merged model")
    modules = {id(task.skeleton): task for task in learning.tasks}  # adapters share their base's
    reached = set().union(*(task.load(parameters) for task in modules.values()))
    weighted = Weighted(output, found.scale, learning.kept)

    def descend(values: Tensor, step: int) -> tuple[float, Tensor]:
        rows = values.tolist()
        weighted.merge({name: rows[at] for name, at in found.groups.items()}, values_of)
        loss = entropy.add_gradients(step)
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        derivatives = torch.zeros(values.shape, dtype=torch.float64)
        for name, row in weighted.inner(gradients).items():
            derivatives[found.groups[name]] += torch.tensor(row, dtype=torch.float64)
        for gradient in gradients.values():
            gradient.zero_()  # and not let go: what is read in between would leave holes where it was
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
