"""A plan: every output tensor with its fate, where its bytes come from, and what running it will cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eutectic.checkpoint.remote import missing
from eutectic.checkpoint.sidecars import Sidecar
from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.spec import DType, TensorSpec
from eutectic.checkpoint.writer import ShardLayout
from eutectic.methods.declare import Locality
from eutectic.methods.extras import Extra
from eutectic.plan.explain import describe, explain
from eutectic.recipe.model import Recipe
from eutectic.recipe.resolve import ResolvedStep
from eutectic.stats.fold import Calibrated


@dataclass(frozen=True)
class Feed:
    """Where one row of a site comes from.

    Attributes:
        source: position in `Plan.inputs`.
        name: the tensor's name there.
        dtype: its stored type.
        numel: elements it has there; a site with more takes the rest from the base (more vocabulary rows).
        delta: it already is a difference from the base.
        zero: it is not read: the model does not change this tensor.
    """

    source: int
    name: str
    dtype: DType
    numel: int
    delta: bool = False
    zero: bool = False


@dataclass(frozen=True)
class Merged:
    """A site: one output tensor made by a chain of methods.

    Attributes:
        spec: the output.
        steps: transforms, then one combine, with concrete values.
        base: the base's row, when the chain or a delta needs it.
        models: one row per model.
        why: what is special about it, for the plan's listing.
        aside: why other methods than the recipe's make it, if they do.
        stacked: how many maps of one size it holds, one behind the other along its outputs.
    """

    spec: TensorSpec
    steps: tuple[ResolvedStep, ...]
    base: Feed | None
    models: tuple[Feed, ...]
    why: str = ""
    aside: str = ""
    stacked: int = 1

    @property
    def feeds(self) -> tuple[Feed, ...]:
        """Every row, base first."""
        return (*([self.base] if self.base else []), *self.models)

    @property
    def extras(self) -> tuple[Extra, ...]:
        """What its combine makes for each model beside the tensor."""
        declared = self.steps[-1].method.extras
        return tuple(extra for extra in declared if extra.stored(self.spec.shape, len(self.models)) is not None)

    @property
    def locality(self) -> Locality:
        """The least its chain must see at once."""
        return max(step.method.needs_for(dict(step.values)).locality for step in self.steps)

    @property
    def double(self) -> bool:
        """Whether a method of the chain asks for float64."""
        return any(step.method.needs_for(dict(step.values)).float64 for step in self.steps)

    @property
    def fused(self) -> bool:
        """Whether the CPU kernels can express the whole chain."""
        needs = [step.method.needs_for(dict(step.values)) for step in self.steps]
        described = all(
            step.method.fused is not None and need.fused for step, need in zip(self.steps, needs, strict=True)
        )
        return described and self.locality < Locality.TENSOR

    @property
    def width(self) -> int:
        """Elements that must be seen together: those of a row where the chain goes by rows, else one."""
        if self.locality is not Locality.ROW:
            return 1
        return max(1, self.spec.shape[-1] if len(self.spec.shape) > 1 else self.spec.numel)


@dataclass(frozen=True)
class Copied:
    """An output tensor taken from one input as it is; `equal` lists rows that must hold the same bytes."""

    spec: TensorSpec
    feed: Feed
    why: str
    equal: tuple[Feed, ...] = ()


@dataclass(frozen=True)
class Dropped:
    """An input tensor that is not written, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Demand:
    """Results of calibration that sites read: of one model on its data, at some tensors.

    Attributes:
        statistic: what is taken.
        source: position in `Plan.inputs` of the model whose data it is, and whose weights unless the statistic says
            the base's or the merged ones.
        tensors: names in that model; those of an adapter are the base's.
    """

    statistic: Calibrated
    source: int
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Calibration:
    """What calibration does before a merge, and where its results are kept.

    Attributes:
        store: the folder of results.
        digests: of each of the plan's demands: its folder in the store.
        finished: whether each demand's results are there already.
        said: what each pass does, in words.
        peak: bytes that it holds at most.
        operations: multiplications and additions of what is still to be done.
        digest: of all that decides the results.
        job: the plan's own digest, without the data.
    """

    store: Path
    digests: tuple[str, ...]
    finished: tuple[bool, ...]
    said: tuple[str, ...]
    peak: int
    operations: float
    digest: str
    job: str


@dataclass(frozen=True)
class Memory:
    """What a run holds at most, in bytes, the interpreter and libraries not counted."""

    buffers: int
    folds: int
    slack: int

    @property
    def peak(self) -> int:
        """All of it."""
        return self.buffers + self.folds + self.slack


@dataclass(frozen=True)
class Schedule:
    """How a plan runs within its budget.

    Attributes:
        threads: workers that read, compute and write slices.
        slice_elements: most elements of a slice; a multiple of the grain.
        resident_bytes: a site with statistics of its own whose rows take at most this is read once, and held.
        whole_threads: workers at once on sites that must be whole in memory.
        lanes: threads that each of these may use for work of one site that falls apart by itself.
        alone: the same, for a site that no other is visited beside.
    """

    threads: int
    slice_elements: int
    resident_bytes: int
    whole_threads: int
    lanes: int = 1
    alone: int = 1


@dataclass(frozen=True)
class Plan:
    """All a run needs to know. Nothing but headers was read to make it.

    `losses` is there when the output is an adapter, whose tensors are copied from a source that makes them: it tells,
    once they are made, what cutting them to their rank lost.
    """

    recipe: Recipe
    inputs: tuple[Checkpoint, ...]
    has_base: bool
    merged: tuple[Merged, ...]
    copied: tuple[Copied, ...]
    dropped: tuple[Dropped, ...]
    layout: ShardLayout
    sidecars: tuple[Sidecar, ...]
    left_out: tuple[Dropped, ...]
    schedule: Schedule
    memory: Memory
    budget: int
    device: str
    reads: int
    sweeps: float
    notes: tuple[str, ...]
    job: str
    fingerprints: Mapping[str, str]
    tasks: ShardLayout
    losses: Callable[[], Mapping[str, Any]] | None = None
    demands: tuple[Demand, ...] = ()
    calibration: Calibration | None = None

    @property
    def files(self) -> ShardLayout:
        """Every file that is written at known offsets: one a task, then the weights, which are made whole last."""
        return ShardLayout(self.tasks.shards + self.layout.shards, self.layout.index)

    @property
    def read(self) -> tuple[Checkpoint, ...]:
        """The inputs that are read; the last one of an adapter's plan is made from the others instead."""
        return self.inputs if self.losses is None else self.inputs[:-1]

    @property
    def peak(self) -> int:
        """Bytes the run holds at most, the interpreter and libraries not counted."""
        return max(self.memory.peak, self.calibration.peak if self.calibration else 0)

    @property
    def downloads(self) -> int:
        """Bytes of hub models that the run must download first; none when they are cached."""
        return sum(size for _, _, size in missing(hub for checkpoint in self.inputs for hub in checkpoint.hub))

    @property
    def writes(self) -> int:
        """Bytes of the output's weight files, and of what is made for each task beside them."""
        return self.files.nbytes

    def explain(self, *, tensors: bool = False, speed: float | None = None) -> str:
        """Returns the plan as a page of text; `tensors` lists every tensor, `speed` is in bytes per second."""
        return explain(self, tensors=tensors, speed=speed)

    def describe(self) -> dict[str, Any]:
        """Returns the plan as plain data."""
        return describe(self)


def work_double(recipe: Recipe, site: Merged) -> bool:
    """Whether a site is computed in float64: asked for by recipe or method, or its inputs are."""
    if recipe.dtype != "auto":
        return recipe.dtype == "float64"
    return site.double or any(feed.dtype.name == "F64" for feed in site.feeds)


def read_cost(site: Merged, inputs: Sequence[Checkpoint]) -> int:
    """Bytes of disk read to have every row of a site once."""
    return sum(inputs[feed.source].source.read_cost(feed.name) for feed in site.feeds if not feed.zero)
