"""What calibration for a plan will do and cost, and under which digests its results are kept. No model is run.

Memory is an upper bound from shapes: the part of a model that is in memory, states of the statistics of one block, what
batches hold while they wait, and the temporaries of one batch in a layer.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eutectic.calibrate.batches import Processor
from eutectic.calibrate.data import Columns, Samples, read_samples
from eutectic.calibrate.embed import embed
from eutectic.calibrate.gradients import FrozenHead, read_head
from eutectic.calibrate.skeleton import Weights, WithHead
from eutectic.checkpoint.source import Checkpoint
from eutectic.errors import CalibrationError, OverBudget, RecipeError
from eutectic.layout.infer import infer
from eutectic.layout.layout import Layout
from eutectic.layout.roles import Role
from eutectic.numerics.tensors import torch
from eutectic.plan.steps import Calibration, Demand, Plan
from eutectic.quantities import format_bytes
from eutectic.recipe.calibration import Calibration as Section
from eutectic.recipe.calibration import for_model
from eutectic.stats.columns import ColumnWeights
from eutectic.stats.fold import Of, Origin
from eutectic.stats.gradients import OfGradients
from eutectic.stats.store import Store

#: Roles that are given one tensor, and so share a state.
_SHARED = {Role.QUERY: 0, Role.KEY: 0, Role.VALUE: 0, Role.UP: 1, Role.GATE: 1}
#: Families whose maps are stored (in, out).
_TRANSPOSED = frozenset(("gpt2", "openai-gpt", "imagegpt", "decision_transformer"))
#: A layer's temporaries, in copies of its widest activation.
_TEMPORARIES = 8
#: How classes are called that predict the next token, and others that predict one for each place.
_CAUSAL, _WORDS = ("CausalLM", "LMHeadModel"), ("ConditionalGeneration", "MaskedLM")
#: More prompts than a head has classes.
_EVERY = 2**31
#: What a backward pass keeps of each block, in copies of its hidden state.
_KEPT = 34


@dataclass(frozen=True)
class Job:
    """One model's part of a calibration.

    Attributes:
        source: position in `Plan.inputs`.
        name: what the recipe calls the model.
        model: it, as it was opened.
        base: what it differs from, if it is an adapter.
        samples: its data.
        processor: what makes inputs of samples.
    """

    source: int
    name: str
    model: Checkpoint
    base: Checkpoint | None
    samples: Samples
    processor: Processor

    @property
    def weights(self) -> Weights:
        """Its whole weights."""
        return Weights(self.model, self.base)

    @property
    def runs(self) -> Checkpoint:
        """The checkpoint whose config says how it runs."""
        return self.base if self.model.deltas and self.base is not None else self.model

    @property
    def architecture(self) -> str:
        """The class that its config names; empty where it names none."""
        return str((self.runs.config.get("architectures") or [""])[0])

    def at_base(self, plan: Plan) -> tuple[Checkpoint, Weights]:
        """Returns how the base runs for this model's task, and its weights: under the model's own head, if it has one.

        A head is what has that role and is not merged. Without one the base runs as it is, or under the head that the
        recipe names.
        """
        base = plan.inputs[0]
        merged = {feed.name for site in plan.merged for feed in site.models if feed.source == self.source}
        places = infer(self.runs.source.header, self.runs.config).places
        own = frozenset(name for name, place in places.items() if place.role.matches("head") and name not in merged)
        if not own or section(plan).head is not None:
            return base, Weights(base)
        return self.runs, WithHead(Weights(base), self.weights, own)

    def length(self, cut: int) -> int:
        """Most tokens of a sample; an upper bound without tokenising."""
        longest = 1
        for row in self.samples.rows:
            if row.text is not None:
                longest = max(longest, min(cut, len(row.text.encode()) + 2))
            if row.image is not None:
                longest = max(longest, _patches(self.runs.config))
            for array in (row.inputs or {}).values():
                longest = max(longest, array.shape[0] if array.ndim in (1, 2) else _patches(self.runs.config))
        return longest


def _patches(config: Mapping[str, Any]) -> int:
    parts = [config, *(part for part in config.values() if isinstance(part, Mapping))]
    for part in parts:
        size, patch = part.get("image_size"), part.get("patch_size")
        if isinstance(size, int) and isinstance(patch, int) and patch > 0:
            return (size // patch) ** 2 + 1
    return 4096


def section(plan: Plan) -> Section:
    """Returns the recipe's calibration section, which a plan with demands has."""
    if plan.recipe.calibration is None:
        asked = ", ".join(sorted({demand.statistic.origin.value for demand in plan.demands}))
        raise RecipeError(f"the recipe's method looks at {asked}, so it needs data; add calibration: {{data: FILE}}")
    return plan.recipe.calibration


def jobs(plan: Plan, *, every: bool = False) -> list[Job]:
    """Reads the samples of the models that something is demanded of, or of every model.

    Raises:
        CalibrationError: when data is missing or empty.
    """
    said = section(plan)
    columns = Columns(said.text, said.image, said.label)
    base = plan.inputs[0] if plan.has_base else None
    found = []
    lead = 1 if plan.has_base else 0
    wanted = range(lead, len(plan.inputs)) if every else sorted({demand.source for demand in plan.demands})
    for source in wanted:
        name = plan.recipe.names[source - lead] if source >= lead else "base"
        reference = for_model(said.data, name) or _by_reference(plan, said.data, name)
        if reference is None:
            raise CalibrationError(f"calibration.data: expected data for {name}, found none")
        count = for_model(said.samples, name) or _by_reference(plan, said.samples, name) or 256
        samples = read_samples(str(reference), int(count), columns=columns, seed=said.seed, root=plan.recipe.root)
        model = plan.inputs[source]
        found.append(Job(source, name, model, base, samples, Processor(model, base, said.max_length)))
    return found


def _by_reference(plan: Plan, table: Mapping[str, Any], name: str) -> Any:
    """The value of a model that the recipe calls by its reference although it has a name."""
    for key, value in table.items():
        place = plan.recipe.find(key)
        if place is not None and plan.recipe.names[place] == name:
            return value
    return None


def head_of(plan: Plan, job: Job) -> FrozenHead | None:
    """Reads the head that stands on a model, if the recipe names one, or makes it of its prompts by the base.

    Raises:
        CalibrationError: when it does not fit.
    """
    head = section(plan).head
    if head is None:
        return None
    if head.prompts is not None:
        _, samples = prompts_of(plan, job)
        said = section(plan)
        batches = list(Processor(plan.inputs[0], None, said.max_length).batches(samples, said.batch))
        rows = embed(plan.inputs[0], Weights(plan.inputs[0]), batches, head.pool)
        rows = torch.nn.functional.normalize(rows, dim=-1) if head.normalize else rows
        return FrozenHead(rows, None, head.pool, head.normalize, float(head.scale))
    width = job.runs.config.get("projection_dim") or job.runs.config.get("hidden_size")
    path = _head_file(plan, job)
    return read_head(path, head.pool, head.normalize, float(head.scale), width if isinstance(width, int) else None)


def check_head_of(plan: Plan, job: Job) -> None:
    """Checks that the files of a model's head are there and fit, and runs nothing.

    Raises:
        CalibrationError: when not.
    """
    head = section(plan).head
    if head is not None and head.prompts is not None:
        prompts_of(plan, job)
    elif head is not None:
        head_of(plan, job)


def prompts_of(plan: Plan, job: Job) -> tuple[Path, Samples]:
    """Reads the texts that a head is made of.

    Raises:
        CalibrationError: when there are none, no tokenizer, or no base to embed them.
    """
    path = _head_file(plan, job)
    if not plan.has_base:
        raise CalibrationError("calibration.head: expected a base that embeds the prompts, found none; add base")
    samples = read_samples(str(path), _EVERY, columns=Columns(section(plan).text))
    Processor(plan.inputs[0], None, section(plan).max_length).batch(samples.rows[:1], samples.reference)
    return path, samples


def _head_file(plan: Plan, job: Job) -> Path:
    head = section(plan).head
    assert head is not None
    named = for_model(head.files, job.name) or _by_reference(plan, head.files, job.name)
    if named is None:
        kind = "weights" if head.weights else "prompts"
        raise CalibrationError(f"calibration.head: expected {kind} for {job.name}, found none")
    return (plan.recipe.root or Path()) / str(named)


def prepare(plan: Plan, store: Path) -> Calibration | None:
    """Returns what calibration for a plan does; None when nothing demands it.

    Raises:
        CalibrationError: when data is missing, empty, or has no labels where they are needed; a head does not fit.
        OverBudget: when it takes more memory than the plan has.
    """
    if not plan.demands:
        return None
    found = {job.source: job for job in jobs(plan)}
    kept = Store(store)
    digests, finished = [], []
    for demand in plan.demands:
        _check(plan, demand, found[demand.source])
        results = kept.results(facts(plan, demand, found))
        digests.append(results.digest)
        finished.append(results.finished)
    open_ = [demand for demand, done in zip(plan.demands, finished, strict=True) if not done]
    costs = [_Cost(plan, job, [each for each in open_ if each.source == source]) for source, job in found.items()]
    peak = max((cost.peak for cost in costs), default=0)
    if peak > plan.budget:
        worst = max(costs, key=lambda cost: cost.peak)
        raise OverBudget(
            f"{worst.job.model.reference}: calibrating it takes {format_bytes(peak)}, and the budget is "
            f"{format_bytes(plan.budget)}; give at least --memory {-(-peak // 2**20)}MiB, or take fewer samples, a "
            "smaller batch or max_length",
            peak,
        )
    digest = hashlib.sha256(json.dumps(digests).encode()).hexdigest()
    said = tuple(cost.said() for cost in costs)
    operations = sum(cost.operations for cost in costs)
    return Calibration(store, tuple(digests), tuple(finished), said, peak, operations, digest, plan.job)


def _check(plan: Plan, demand: Demand, job: Job) -> None:
    if not isinstance(demand.statistic, OfGradients):
        return
    check_head_of(plan, job)
    causal = job.architecture.endswith(_CAUSAL)
    ready = [row.label is not None or "labels" in (row.inputs or {}) for row in job.samples.rows]
    if demand.statistic.labelled and not all(ready) and not causal:
        raise CalibrationError(
            f"{job.samples.reference}: expected samples with labels, found some without; name their column under "
            "calibration.label"
        )


def facts(plan: Plan, demand: Demand, found: Mapping[int, Job]) -> dict[str, Any]:
    """Returns all that a demand's results depend on, as plain data."""
    said, job = section(plan), found[demand.source]
    statistic = demand.statistic
    if statistic.of is Of.MERGED:
        weights = plan.calibration.job if plan.calibration else plan.job
    else:
        weights = (job.weights if statistic.of is Of.EACH else job.at_base(plan)[1]).fingerprint
    known: dict[str, Any] = {
        "statistic": statistic.key,
        "model": job.model.reference,
        "weights": weights,
        "data": job.samples.reference,
        "samples": len(job.samples.rows),
        "content": job.samples.digest,
        "processing": job.processor.digest(),
        "max_length": said.max_length,
        "padding": said.padding,
        "batch": said.batch,
        "tensors": hashlib.sha256("\0".join(demand.tensors).encode()).hexdigest(),
    }
    if statistic.of is Of.MERGED:
        known["others"] = [job.samples.digest for job in found.values()]
    if statistic.origin is Origin.LEARNED:
        known["others"] = [[job.samples.digest, job.weights.fingerprint] for job in found.values()]
        known["base"] = plan.inputs[0].source.fingerprint()
        known["seed"] = plan.recipe.seed
    if statistic.origin is Origin.GRADIENTS:
        known["seed"] = plan.recipe.seed
        known["head"] = head_facts(plan, job)
    return known


def head_facts(plan: Plan, job: Job) -> list[Any] | None:
    """Returns all that a model's head depends on, as plain data; None without one."""
    head = section(plan).head
    if head is None:
        return None
    made = None if head.prompts is None else plan.inputs[0].source.fingerprint()
    return [head.pool, head.normalize, float(head.scale), made, _file_digest(plan, job)]


def _file_digest(plan: Plan, job: Job) -> str:
    path = _head_file(plan, job)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CalibrationError(f"calibration.head: {path}: expected a file, found {error.strerror}") from error


class _Cost:
    """What one model's passes cost."""

    def __init__(self, plan: Plan, job: Job, open_: Sequence[Demand]) -> None:
        self.job, self.open = job, open_
        said = section(plan)
        shapes = job.weights.names
        layout = infer(job.runs.source.header, job.runs.config)
        self.batch = min(said.batch, len(job.samples.rows))
        self.length = job.length(said.max_length)
        self.tokens = len(job.samples.rows) * self.length
        self.size = {name: 4 * _numel(shape) for name, shape in shapes.items()}
        self.blocks = {name: (p.stack, p.block) if p.block is not None else None for name, p in layout.places.items()}
        if said.runner == "whole":
            self.blocks = dict.fromkeys(self.blocks)
        self.width = _width(job.runs.config, shapes)
        self.widest = max((max(s) for n, s in shapes.items() if self.blocks.get(n) and s), default=self.width)
        self.state_bytes = self._states(layout, shapes) if open_ else {}
        self.spills = self._waiting() > plan.budget // 8

    def _states(self, layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> dict[Any, int]:
        """Bytes of states by block."""
        found: dict[Any, dict[Any, int]] = {}
        transposed = self.job.runs.config.get("model_type") in _TRANSPOSED
        for demand in self.open:
            for name in demand.tensors:
                shape, place = shapes.get(name, ()), layout.places.get(name)
                if demand.statistic.aligned or not shape:
                    size, whose = 8 * _numel(shape), name
                else:
                    width = _numel(shape[1:]) if len(shape) > 1 else shape[0]
                    width = max(shape) if transposed else width
                    size = 8 * width * width if demand.statistic.symmetric else 16 * width
                    parent, share = name.rsplit(".", 2)[0], _SHARED.get(place.role) if place else None
                    alone = share is None or "cross" in parent.lower() or "enc" in parent.rpartition(".")[2].lower()
                    whose = name if alone else f"{parent} {share}"
                block = self.blocks.get(name)
                found.setdefault(block, {})[demand.statistic, whose] = size
        return {block: sum(sizes.values()) for block, sizes in found.items()}

    def _waiting(self) -> int:
        """Bytes that all batches hold between blocks: hidden states, and masks that broadcast over heads."""
        return len(self.job.samples.rows) * (self.length * self.width * 4 + self.length * (self.length + 64) * 4)

    @property
    def peak(self) -> int:
        """Bytes held at most."""
        if not self.open:
            return 0
        states = {key: value for key, value in self.state_bytes.items() if key is not None}
        outside = self.state_bytes.get(None, 0)
        # A state in float64, its product in float32, and the finished result on its way to the disk.
        passes = self.passing + 2 * max(states.values(), default=0) + 2 * outside
        if any(demand.statistic.origin is Origin.GRADIENTS for demand in self.open):
            passes = max(passes, 2 * sum(self.size.values()) + 2 * sum(self.state_bytes.values()) + self.backward)
        for demand in self.open:
            if demand.statistic.origin is Origin.LEARNED:
                passes = max(passes, sum(self.size.values()) + 2 * self._updates(demand) + 2 * self.backward)
        return passes + (64 << 20)

    def _updates(self, demand: Demand) -> int:
        """Bytes of a model's updates in memory, twice over while one is read: factors where it is an adapter."""
        source = self.job.model.source
        named = [name for name in demand.tensors if name in source.header]
        if self.job.model.deltas:
            return 4 * sum(source.read_cost(name) for name in named)
        return 2 * sum(self.size.get(name, 0) for name in named)

    @property
    def passing(self) -> int:
        """Bytes held while batches pass the model block by block, statistics not counted."""
        by_block = self._by_block()
        rest = by_block.pop(None, 0)
        waiting = self._waiting() if not self.spills else 2 * self._waiting() * self.batch // len(self.job.samples.rows)
        return rest + 2 * max(by_block.values(), default=0) + self._temporaries() + waiting

    @property
    def backward(self) -> int:
        """Bytes that one batch keeps for its backward pass."""
        by_block = self._by_block()
        by_block.pop(None, None)
        return self.batch * self.length * self.width * 4 * _KEPT * max(1, len(by_block)) + self._temporaries()

    def _by_block(self) -> dict[Any, int]:
        found: dict[Any, int] = {}
        for name, size in self.size.items():
            found[self.blocks.get(name)] = found.get(self.blocks.get(name), 0) + size
        return found

    def _temporaries(self) -> int:
        rows = self.batch * self.length
        return rows * self.widest * 4 * _TEMPORARIES + self.batch * self.length**2 * 4 * 16

    @property
    def operations(self) -> float:
        """Multiplications and additions of what is still to be done."""
        if not self.open:
            return 0.0
        parameters = sum(self.size.values()) / 4
        widths = sum(value / 8 for key, value in self.state_bytes.items())
        found = 0.0
        if any(demand.statistic.origin is Origin.INPUTS for demand in self.open):
            found += 2.0 * self.tokens * (parameters + widths)
        for demand in self.open:
            if demand.statistic.origin is Origin.GRADIENTS:
                found += 6.0 * self.tokens * parameters
            if isinstance(demand.statistic, ColumnWeights):
                found += 8.0 * demand.statistic.steps * self.batch * self.length * parameters
        return found

    def said(self) -> str:
        """Returns the pass in words."""
        what = f"{self.job.model.reference}: {len(self.job.samples.rows)} samples of {self.job.samples.reference}"
        if not self.open:
            return f"{what}, stored already"
        names = ", ".join(sorted({type(demand.statistic).__name__ for demand in self.open}))
        how = f", at most {self.length} tokens each, {format_bytes(self.peak)}"
        return f"{what} for {names}{how}{', waiting on disk' if self.spills else ''}"


def pass_bytes(plan: Plan, job: Job) -> int:
    """Bytes held while a model's samples pass it block by block."""
    return _Cost(plan, job, []).passing


def backward_bytes(plan: Plan, job: Job) -> int:
    """Bytes that one batch of a model's samples keeps for a backward pass, the logits of its head included."""
    cost = _Cost(plan, job, [])
    tables = [shape[0] for name, shape in job.weights.names.items() if len(shape) == 2 and "embed" in name]
    predicts = section(plan).head is None and job.architecture.endswith((*_CAUSAL, *_WORDS))
    return cost.backward + (cost.batch * cost.length * max(tables, default=0) * 4 * 3 if predicts else 0)


def spills(plan: Plan, job: Job) -> bool:
    """Whether the activations of waiting batches are put on disk."""
    return _Cost(plan, job, [demand for demand in plan.demands if demand.source == job.source]).spills


def _numel(shape: Sequence[int]) -> int:
    product = 1
    for axis in shape:
        product *= axis
    return product


def _width(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> int:
    parts = [config, *(part for part in config.values() if isinstance(part, Mapping))]
    for part in parts:
        for key in ("hidden_size", "d_model", "n_embd", "dim", "embed_dim"):
            if isinstance(part.get(key), int):
                return int(part[key])
    return max((min(shape) for shape in shapes.values() if len(shape) == 2), default=1)
