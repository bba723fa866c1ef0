"""How sure a merged model is of its predictions on each task's data, and what pulls its weights towards being surer.

The merged weights are one set of parameters, shared by the modules of all tasks; what a task has of its own is its data
and its head. Gradients of all tasks add up in the shared parameters, so that one model and one gradient are held,
however many tasks there are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eutectic.calibrate.batches import Batch, drawn
from eutectic.calibrate.embed import check_pooler
from eutectic.calibrate.features import mask_for
from eutectic.calibrate.gradients import FrozenHead, logits_of
from eutectic.calibrate.passes import check_tokens, masks_of
from eutectic.calibrate.prepare import Job, check_head_of, head_of, section
from eutectic.calibrate.skeleton import Fitted, Skeleton, Weights, build
from eutectic.checkpoint.source import Checkpoint
from eutectic.errors import CalibrationError
from eutectic.numerics.tensors import Tensor, torch
from eutectic.plan.steps import Plan


class _Assembled(Weights):
    """The output of a plan, with the tensors that a task keeps for itself in the place of the output's."""

    def __init__(self, output: Checkpoint, own: Weights, heads: Iterable[str]) -> None:
        super().__init__(output)
        self._own = own
        given = super().names
        alone = {name for name in own.names if not _stands_for(name, given)}
        #: What is the task's own.
        self.kept = frozenset(alone | {name for name in heads if name in own.names})
        self.parameters: Mapping[str, Any] = {}

    @property
    def names(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor's shape by its name."""
        return {**super().names, **{name: shape for name, shape in self._own.names.items() if name in self.kept}}

    def read(self, name: str) -> Tensor:
        """Returns a tensor in float32; a shared one itself."""
        if name in self.parameters:
            shared: Tensor = self.parameters[name].detach()
            return shared
        return self._own.read(name) if name in self.kept else super().read(name)


def _stands_for(name: str, given: Mapping[str, object]) -> bool:
    """Whether an output has a model's tensor, with or without the model's prefix."""
    return name in given or any(other.endswith(f".{name}") or name.endswith(f".{other}") for other in given)


@dataclass(frozen=True)
class Task:
    """One model's task: its module over the shared weights, its data, its head.

    Attributes:
        job: its data.
        skeleton: the module; several tasks may share one.
        fitted: which tensor is whose.
    """

    job: Job
    skeleton: Skeleton
    fitted: Fitted

    def load(self, parameters: Mapping[str, Any]) -> set[str]:
        """Loads what is not shared, takes what is, and returns the names of shared parameters that the module has."""
        assert isinstance(self.fitted.weights, _Assembled)
        self.fitted.weights.parameters = parameters
        self.skeleton.load(None, self.fitted)
        return self.skeleton.place(self.fitted, parameters)

    @property
    def kept(self) -> int:
        """Bytes of what is its own."""
        assert isinstance(self.fitted.weights, _Assembled)
        names, own = self.fitted.weights.names, self.fitted.weights.kept
        return sum(4 * torch.Size(names[name]).numel() for name in self.fitted.stored.values() if name in own)


def tasks_of(plan: Plan, found: Sequence[Job], output: Checkpoint, heads: Iterable[str]) -> list[Task]:
    """Returns the tasks of a plan's models; no weights are read, and no model is run.

    Args:
        plan: of the merge.
        found: the models' data.
        output: the plan's output.
        heads: tensors of the output that each task has its own of.

    Raises:
        CalibrationError: when data, tokenizer or head do not fit a model, or it does not predict.
    """
    headless = section(plan).head is not None
    heads = list(heads)
    shared: dict[int, tuple[Skeleton, Fitted]] = {}
    made = []
    for job in found:
        check_head_of(plan, job)
        weights = _Assembled(output, job.weights, heads)
        key = id(job.runs) if not weights.kept else -1 - job.source
        if key not in shared:
            skeleton = Skeleton(build(job.runs, headless=headless), job.runs.reference, blocks=False)
            shared[key] = skeleton, skeleton.fit(weights)
            if not headless and not _predicts(skeleton.module):
                kind = type(skeleton.module).__name__
                raise CalibrationError(
                    f"{job.runs.reference}: expected a model that predicts, found {kind}, which has no head; name one "
                    "under calibration.head"
                )
        skeleton, fitted = shared[key]
        pool = section(plan).head
        check_pooler(skeleton, len(fitted.stored), pool.pool if pool is not None else "mean")
        first = job.processor.batch(job.samples.rows[:1], job.samples.reference)
        check_tokens(skeleton, [first], job.processor.reference)
        made.append(Task(job, skeleton, fitted))
    return made


def _predicts(module: Any) -> bool:
    """Whether a module has a head: it holds a model, makes words, or compares texts with images."""
    if getattr(module, "base_model", None) is not module or hasattr(module, "logit_scale"):
        return True
    return getattr(module, "get_output_embeddings", lambda: None)() is not None


def entropy(logits: Tensor, masks: tuple[Tensor, ...]) -> Tensor:
    """Returns the mean entropy of predictions, in nats: over samples, or over the tokens that count.

    Source: AdaMerging, arXiv:2310.02575, equation 5: -sum over classes of p log p.

    Args:
        logits: (samples, classes) or (samples, tokens, classes).
        masks: which tokens count, (samples, tokens); that of the logits' shape is used.
    """
    logs = torch.log_softmax(logits, -1)
    each = -(logs.exp() * logs).sum(-1)
    if each.dim() < 2:
        return each.mean()
    counts = mask_for(each, masks).to(each.dtype)
    return (each * counts).sum() / counts.sum()


class Entropy:
    """The sum of the tasks' mean entropies on samples that each step draws.

    Args:
        plan: of the merge, whose seed draws.
        tasks: with their weights loaded.
        batches: how many a task and step, each of the recipe's size.
    """

    def __init__(self, plan: Plan, tasks: Sequence[Task], batches: int) -> None:
        self._tasks, self._batches = tasks, batches
        self._seed, self._size = plan.recipe.seed, section(plan).batch
        self._heads: list[FrozenHead | None] = [head_of(plan, task.job) for task in tasks]

    def add_gradients(self, step: int) -> float:
        """Adds the gradients of one step's entropy to the shared parameters', and returns the entropy.

        Raises:
            CalibrationError: when it is not finite.
        """
        total = 0.0
        for task, head in zip(self._tasks, self._heads, strict=True):
            for batch in self._draw(task, step):
                logits = logits_of(task.skeleton.module, batch, head)
                found = entropy(logits, masks_of(task.skeleton.module, batch, include=False))
                if not bool(torch.isfinite(found)):
                    raise CalibrationError(
                        f"{task.job.name}: its predictions are NaN or infinite at step {step}; the model's weights or "
                        "the samples are broken"
                    )
                found.backward()  # type: ignore[no-untyped-call]
                total += float(found.detach())
        return total

    def _draw(self, task: Task, step: int) -> Iterable[Batch]:
        rows, size = task.job.samples.rows, self._size
        chosen = drawn(len(rows), size * self._batches, self._seed, task.job.name, step)
        for start in range(0, len(chosen), size):
            some = [rows[at] for at in chosen[start : start + size]]
            yield task.job.processor.batch(some, task.job.samples.reference)
