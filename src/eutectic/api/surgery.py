"""Representation Surgery after a merge: adapters of features, fitted to each expert's, in a file beside the model."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eutectic.api import models
from eutectic.api.learning import check_held_out, check_positive
from eutectic.api.recipes import read
from eutectic.api.runs import Plan, download, plan
from eutectic.api.statistics import open_store
from eutectic.calibrate.batches import Batch
from eutectic.calibrate.data import read_arrays
from eutectic.calibrate.embed import embed
from eutectic.calibrate.passes import check_tokens
from eutectic.calibrate.prepare import Job, jobs, pass_bytes, section, spills
from eutectic.calibrate.skeleton import Skeleton, Weights, build
from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.spec import DTYPES, TensorSpec
from eutectic.checkpoint.writer import lay_out_file
from eutectic.engine.events import Calibrating, Observer
from eutectic.errors import CalibrationError, CheckpointError, OutputError, OverBudget, nearest
from eutectic.numerics.tensors import Tensor, torch
from eutectic.plan.build import budget_of
from eutectic.quantities import format_bytes
from eutectic.recipe.model import Recipe
from eutectic.search.surgery import FeatureAdapter, fit
from eutectic.stats.store import Outcome, Results

#: Where adapters are kept in a model's folder.
PLACE = Path("surgery") / "adapters.safetensors"
_FACTS, _FEATURES = "eutectic", "features"


@dataclass(frozen=True)
class Surgery:
    """Adapters of a merged model's features, one a task.

    Attributes:
        adapters: by task.
        pool: which feature they adapt: the `mean` over a text's tokens, the `first`, the `last`, or the `pooler`'s.
        distances: by task, the mean absolute difference from the expert's features before and after, on the data that
            they were fitted to.
    """

    adapters: Mapping[str, FeatureAdapter]
    pool: str
    distances: Mapping[str, tuple[float, float]]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Surgery":
        """Reads the adapters of a model's folder, or of a file.

        Raises:
            CheckpointError: when there are none, or the file is broken.
        """
        given = Path(os.fspath(path))
        file = given / PLACE if given.is_dir() else given
        if not file.is_file():
            raise CheckpointError(f"{file}: expected adapters of features, found none; eutectic surgery makes them")
        source = SafetensorsFile(file)
        text = source.metadata.get(_FACTS, "")
        source.close()
        try:
            facts = json.loads(text)
            arrays = {name: torch.from_numpy(array) for name, array in read_arrays(file).items()}
            adapters = {t: FeatureAdapter(arrays[f"{t}.down"], arrays[f"{t}.up"]) for t in facts["distances"]}
            distances = {task: (float(one), float(other)) for task, (one, other) in facts["distances"].items()}
            return cls(adapters, str(facts["pool"]), distances)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file}: expected adapters of features, found another file: {error}") from error

    def __call__(self, features: Tensor, task: str) -> Tensor:
        """Returns a merged model's features adapted to a task, (..., width), ready for that task's head.

        Raises:
            CalibrationError: when there is no such task, or features have another width.
        """
        if task not in self.adapters:
            known = ", ".join(self.adapters)
            raise CalibrationError(f"{task}: expected one of the tasks {known}{nearest(task, self.adapters)}")
        adapter = self.adapters[task]
        if features.shape[-1] != adapter.down.shape[1]:
            raise CalibrationError(
                f"{task}: expected features of width {adapter.down.shape[1]}, found {features.shape[-1]}"
            )
        return adapter(features)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the adapters into a model's folder, or to a file; the file appears whole.

        Raises:
            OutputError: when it cannot be written.
        """
        given = Path(os.fspath(path))
        file = given / PLACE if given.is_dir() else given
        tensors = {f"{t}.{side}": getattr(a, side) for t, a in self.adapters.items() for side in ("down", "up")}
        specs = [TensorSpec(name, tuple(tensor.shape), DTYPES["F32"]) for name, tensor in tensors.items()]
        facts = {"pool": self.pool, "distances": self.distances}
        shard = lay_out_file(file.name, specs, {_FACTS: json.dumps(facts)})
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("wb") as written:
                    written.write(shard.header)
                    for name in shard.offsets:
                        written.write(np.ascontiguousarray(tensors[name].numpy(), np.float32).tobytes())
                    written.flush()
                    os.fsync(written.fileno())
                partial.rename(file)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{file}: cannot be written: {error.strerror or error}") from error


@dataclass(frozen=True)
class SurgeryPlan:
    """What surgery on a merged model will do and hold. No model was run to make it.

    Attributes:
        plan: of the recipe's merge, whose inputs are the experts.
        merged: the merged model.
        jobs: each expert with its data.
        pool: which feature is adapted.
        rank, steps, batches, rate: of the adapters, and how they are fitted.
        passes: by task, where the features by the merged model and by the expert are kept.
        peak: bytes held at most.
        budget: bytes that may be held.
    """

    plan: Plan
    merged: Checkpoint
    jobs: tuple[Job, ...]
    pool: str
    rank: int
    steps: int
    batches: int
    rate: float
    passes: Mapping[str, tuple[Results, Results]]
    peak: int
    budget: int

    def explain(self) -> str:
        """Returns the plan as a page of text."""
        lines = [
            f"adapts    {self.merged.reference}: features by {self.pool}, rank {self.rank}, {len(self.jobs)} tasks",
        ]
        for job in self.jobs:
            ready = [results.finished for results in self.passes[job.name]]
            models = [
                m for m, done in zip((self.merged.reference, job.model.reference), ready, strict=True) if not done
            ]
            how = f"through {' and '.join(models)}, block by block" if models else "features are stored already"
            lines.append(f"pass      {job.name}: {len(job.samples.rows)} of {job.samples.reference} {how}")
        size = section(self.plan).batch
        lines.append(f"steps     {self.steps} rounds of {self.batches} batches of {size} features a task")
        lines.append(f"memory    {format_bytes(self.peak)} of {format_bytes(self.budget)} at most")
        return "\n".join(lines)

    def describe(self) -> dict[str, Any]:
        """Returns the plan as plain data."""
        return {
            "merged": self.merged.reference,
            "pool": self.pool,
            "rank": self.rank,
            "steps": self.steps,
            "samples": {job.name: len(job.samples.rows) for job in self.jobs},
            "stored": {name: [each.finished for each in pair] for name, pair in self.passes.items()},
            "memory": {"budget": self.budget, "peak": self.peak},
        }


def plan_surgery(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str],
    merged: str | os.PathLike[str],
    *,
    rank: int = 16,
    steps: int = 500,
    batches: int = 2,
    rate: float = 1e-3,
    pool: str | None = None,
    transductive: bool = False,
    memory: str | int | None = None,
    offline: bool = False,
    store: str | os.PathLike[str] | None = None,
) -> SurgeryPlan:
    """Plans adapters of a merged model's features: which passes there are, and what they hold. Runs no model.

    Args:
        recipe: names the experts, each a task, and has a calibration section.
        merged: the merged model's folder; any merge of these experts.
        rank: of the adapters.
        steps: rounds of Adam.
        batches: batches of each task a round, each of the recipe's `calibration.batch`.
        rate: of Adam.
        pool: which feature is adapted; by default that of `calibration.head`, or the mean over tokens.
        transductive: allow data that its name calls test data.
        memory: as in `plan`.
        offline: do not download.
        store: where features are kept.

    Raises:
        CalibrationError: when data or tokenizer are missing or do not fit.
        OverBudget: when a pass does not fit in memory.
        CheckpointError: when a model is missing or broken.
    """
    given = read(recipe)
    check_positive({"rank": rank, "steps": steps, "batches": batches, "rate": rate})
    if given.calibration is None:
        raise CalibrationError("surgery looks at data; add calibration: {data: FILE} to the recipe")
    check_held_out(given, transductive)
    budget = budget_of(memory)
    planned = plan(given, memory=budget, offline=offline, store=store)
    opened = models.open(merged)
    try:
        found = tuple(jobs(planned, every=True))
        head = section(planned).head
        chosen = pool or (head.pool if head is not None else "mean")
        for job in found:
            for runs, weights in ((opened, Weights(opened)), (job.runs, job.weights)):
                skeleton = Skeleton(build(runs, headless=True), runs.reference)
                skeleton.fit(weights)
                first = job.processor.batch(job.samples.rows[:1], job.samples.reference)
                check_tokens(skeleton, [first], job.processor.reference)
        peak = max(pass_bytes(planned, job) for job in found) + (64 << 20)
        if peak > budget:
            raise OverBudget(
                f"passing data through a model takes {format_bytes(peak)}, and the budget is {format_bytes(budget)}; "
                f"give at least --memory {-(-peak // 2**20)}MiB, or take fewer samples, a smaller batch or max_length",
                peak,
            )
        kept = open_store(store)
        passes = {
            job.name: (
                kept.results(_facts(planned, job, opened.reference, Weights(opened), chosen)),
                kept.results(_facts(planned, job, job.model.reference, job.weights, chosen)),
            )
            for job in found
        }
    except BaseException:
        for each in (*planned.inputs, opened):
            each.source.close()
        raise
    return SurgeryPlan(planned, opened, found, chosen, rank, steps, batches, rate, passes, peak, budget)


def surgery(planned: SurgeryPlan, *, watch: Sequence[Observer] = ()) -> Surgery:
    """Takes the features that are not stored, fits the adapters and returns them; `Surgery.save` writes them.

    Args:
        planned: from `plan_surgery`.
        watch: functions called with events.

    Raises:
        CalibrationError: when features are not finite, or widths differ.
        CheckpointError: when a model cannot be read.
        OutputError: when features cannot be stored.
    """
    download((*planned.plan.inputs, planned.merged), watch)
    adapters, distances = {}, {}
    seed, size = planned.plan.recipe.seed, section(planned.plan).batch
    for number, job in enumerate(planned.jobs):
        batches = list(job.processor.batches(job.samples, size))
        mine, theirs = planned.passes[job.name]
        merged = _features(planned, job, mine, planned.merged, Weights(planned.merged), batches)
        expert = _features(planned, job, theirs, job.runs, job.weights, batches)
        if merged.shape != expert.shape:
            raise CalibrationError(
                f"{job.name}: expected features of width {expert.shape[1]}, as its expert's, found {merged.shape[1]}"
            )
        start = FeatureAdapter.start(merged.shape[1], planned.rank, seed, job.name)
        adapter = fit(
            merged,
            expert,
            start,
            steps=planned.steps,
            batches=planned.batches,
            size=size,
            rate=planned.rate,
            seed=seed,
            task=job.name,
        )
        adapters[job.name] = adapter
        distances[job.name] = start.distance(merged, expert), adapter.distance(merged, expert)
        for observer in watch:
            observer(Calibrating(number + 1, len(planned.jobs), f"adapting features of {job.name}"))
    return Surgery(adapters, planned.pool, distances)


def _facts(planned: Plan, job: Job, name: str, weights: Weights, pool: str) -> dict[str, Any]:
    said = section(planned)
    return {
        "statistic": f"features by {pool}",
        "model": name,
        "weights": weights.fingerprint,
        "samples": len(job.samples.rows),
        "data": job.samples.reference,
        "content": job.samples.digest,
        "processing": job.processor.digest(),
        "max_length": said.max_length,
        "batch": said.batch,
    }


def _features(
    planned: SurgeryPlan, job: Job, results: Results, runs: Checkpoint, weights: Weights, batches: Sequence[Batch]
) -> Tensor:
    """The features that are stored, or else those that a pass finds, stored."""
    if not results.finished:
        aside = results.folder.parent if spills(planned.plan, job) else None
        found = embed(runs, weights, batches, planned.pool, spill=aside)
        results.write("rest", {_FEATURES: Outcome(len(found), 0, found)})
        results.finish()
    taken = results.measured(_FEATURES).load()
    results.close()
    return taken


__all__ = ["Surgery", "SurgeryPlan", "plan_surgery", "surgery"]
