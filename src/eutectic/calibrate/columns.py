"""Learning what input channels of models' updates are multiplied with: descent through a whole network.

Source: ZipLoRA, arXiv:2311.13600, equations 3 and 4, as the method `ziplora` describes it. The network holds the base's
weights; hooks add the updates behind its linear maps, so that no merged weight and no gradient of one is ever made.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from eutectic.adapters.sources import DeltaSource
from eutectic.adapters.stored import read_factors
from eutectic.calibrate.batches import Batch, drawn
from eutectic.calibrate.features import mask_for, states_of
from eutectic.calibrate.observe import Site, sites
from eutectic.calibrate.passes import check_tokens, masks_of
from eutectic.calibrate.prepare import Job, section
from eutectic.calibrate.skeleton import Fitted, Skeleton, Weights, build
from eutectic.errors import CalibrationError
from eutectic.numerics.tensors import Tensor, torch
from eutectic.plan.steps import Demand, Plan
from eutectic.stats.columns import ColumnWeights
from eutectic.stats.fold import Sees
from eutectic.stats.store import Outcome

#: As published: of AdamW, and the norm that gradients are cut to.
_DECAY, _MOST = 1e-4, 1.0


@dataclass(frozen=True)
class Update:
    """One model's update of a linear map: `b`, (d_out, d_in), or `b @ a`, of (d_out, r) and (r, d_in)."""

    b: Tensor
    a: Tensor | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Returns what it adds to the map's output, (..., d_in) -> (..., d_out)."""
        linear = torch.nn.functional.linear
        return linear(inputs if self.a is None else linear(inputs, self.a), self.b)


class Columns:
    """A network whose linear maps carry several models' updates, with a weight for each input channel of each.

    Args:
        maps: the network's linear maps by name.
        updates: by map, one a model; None where a model leaves it as it is.
    """

    def __init__(self, maps: Mapping[str, Any], updates: Mapping[str, Sequence[Update | None]]) -> None:
        self._maps, self._updates = maps, updates
        #: By map, one row a model: (n, d_in).
        self.weights = {name: torch.ones(len(own), _width(own), requires_grad=True) for name, own in updates.items()}
        self._alone: int | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Adds the updates to the maps' outputs meanwhile."""
        handles = [self._maps[name].register_forward_hook(self._hook(name)) for name in self._updates]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def alone(self, model: int) -> Iterator[None]:
        """Leaves one model's updates on the base meanwhile, unweighted, and takes no gradients."""
        self._alone = model
        try:
            with torch.no_grad():
                yield
        finally:
            self._alone = None

    def overlaps(self, how: str) -> Tensor:
        """Returns how much the models' weights have in common, summed over maps and pairs of models."""
        total = torch.zeros(())
        for weights in self.weights.values():
            for first in range(len(weights)):
                for second in range(first + 1, len(weights)):
                    both = weights[first] * weights[second]
                    total = total + (both.sum().abs() if how == "paper" else both.abs().mean())
        return total

    def _hook(self, name: str) -> Callable[..., Tensor]:
        def add(_: Any, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            for model, update in enumerate(self._updates[name]):
                if update is None or self._alone not in (None, model):
                    continue
                weighted = given[0] if self._alone is not None else given[0] * self.weights[name][model]
                output = output + update(weighted)
            return output

        return add


def _width(updates: Sequence[Update | None]) -> int:
    known = next(each for each in updates if each is not None)
    return (known.b if known.a is None else known.a).shape[1]


def learn(
    columns: Columns,
    answer: Callable[[int, int], Tensor],
    models: int,
    how: ColumnWeights,
    *,
    tell: Callable[[int, float], None] = lambda *_: None,
) -> list[tuple[float, ...]]:
    """Learns the weights of a network's columns, in place; returns each step's losses, by model, then the overlap.

    Args:
        columns: attached to its network.
        answer: runs the network on what a step shows of a model, `(model, step)`, and returns the outputs to compare;
            the same for the same two numbers.
        models: how many.
        how: the settings.
        tell: hears of each step, with its whole loss.

    Raises:
        CalibrationError: when a loss is not finite.
    """
    leaves = list(columns.weights.values())
    optimiser = torch.optim.AdamW(leaves, lr=how.rate, weight_decay=_DECAY)
    losses = []
    for step in range(how.steps):
        optimiser.zero_grad()
        found = []
        for model in range(models):
            with columns.alone(model):
                wanted = answer(model, step)
            loss = torch.nn.functional.mse_loss(answer(model, step), wanted)
            loss.backward()  # type: ignore[no-untyped-call]
            found.append(float(loss.detach()))
        overlap = how.similarity * columns.overlaps(how.overlap)
        overlap.backward()  # type: ignore[no-untyped-call]
        found.append(float(overlap.detach()))
        if not sum(found) < float("inf"):
            raise CalibrationError(
                f"the loss of column weights is {sum(found)} at step {step}; take a smaller rate, or look for broken "
                "weights or samples"
            )
        torch.nn.utils.clip_grad_norm_(leaves, _MOST)
        optimiser.step()
        losses.append(tuple(found))
        tell(step, sum(found))
        if not found[-1] and how.similarity:
            break
    return losses


def learn_columns(
    plan: Plan, found: Mapping[int, Job], demands: Sequence[Demand], tell: Callable[[int, int, str], None]
) -> dict[int, dict[str, Outcome]]:
    """Learns the column weights of a plan's models, and returns them by model and the names of its tensors.

    Args:
        plan: of the merge.
        found: the models' data, by their position among the inputs.
        demands: one statistic's, one a model.
        tell: hears (steps done, steps in all, what is done).

    Raises:
        CalibrationError: when data, tokenizer or tensors do not fit the base, or a loss is not finite.
    """
    base, how = plan.inputs[0], demands[0].statistic
    assert isinstance(how, ColumnWeights)
    models = [found[demand.source] for demand in demands]
    skeleton = Skeleton(build(base, headless=True), base.reference, blocks=False)
    fitted = skeleton.fit(Weights(base))
    size = section(plan).batch
    for job in models:
        check_tokens(skeleton, list(job.processor.batches(job.samples, size)), job.processor.reference)
    skeleton.load(None, fitted)
    known = {site.name: site for name, module in skeleton.module.named_modules() for site in _maps(module, name)}
    updates: dict[str, list[Update | None]] = {}
    names: list[dict[str, str]] = []
    for at, (job, demand) in enumerate(zip(models, demands, strict=True)):
        own = skeleton.parameters(skeleton.fit(job.weights))
        places = {own[name][0]: name for name in demand.tensors if name in own and own[name][0] in known}
        names.append(places)
        for place, name in places.items():
            made = _update(job, name, known[place], fitted, place)
            updates.setdefault(place, [None] * len(models))[at] = made
    updates = {place: own for place, own in updates.items() if any(each is not None for each in own)}
    modules = dict(skeleton.module.named_modules())
    columns = Columns({place: modules[place.rpartition(".")[0]] for place in updates}, updates)

    @lru_cache(maxsize=1)  # shown twice, to the model alone and to the merged one
    def batch_of(model: int, step: int) -> Batch:
        job = models[model]
        chosen = drawn(len(job.samples.rows), size, plan.recipe.seed, job.name, step)
        return job.processor.batch([job.samples.rows[each] for each in chosen], job.samples.reference)

    def answer(model: int, step: int) -> Tensor:
        batch = batch_of(model, step)
        states = states_of(skeleton.module, batch)
        masks = masks_of(skeleton.module, batch, include=section(plan).padding == "include")
        return states[mask_for(states, masks)] if states.dim() == 3 else states

    def hear(step: int, loss: float) -> None:
        tell(step + 1, how.steps, f"learning column weights, loss {loss:.3g}")

    with columns.attached():
        learn(columns, answer, len(models), how, tell=hear)
    return {
        demand.source: {
            name: Outcome(len(job.samples.rows), known[place].axis, columns.weights[place][at].detach())
            for place, name in names[at].items()
            if place in updates
        }
        for at, (job, demand) in enumerate(zip(models, demands, strict=True))
    }


def _maps(module: Any, name: str) -> list[Site]:
    """The weight of a linear map; none of other layers, whose inputs are no channels of it."""
    plain = isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
    return [site for site in sites(module, name) if plain and site.sees is Sees.INPUTS]


def _update(job: Job, name: str, site: Site, fitted: Fitted, place: str) -> Update | None:
    """Reads a model's update of a map; None where it has none."""
    source = job.model.source
    if isinstance(source, DeltaSource):
        edit = source.adapter.edits.get(name)
        if edit is None:
            return None
        if edit.pair is not None and edit.full is None and edit.magnitude is None and edit.pair.experts == 1:
            factors = read_factors(source.adapter.file, edit.pair).folded()
            return Update(factors.b.contiguous(), factors.a.contiguous())
    delta = job.weights.read(name) - fitted.weights.read(fitted.stored[place])
    if not bool(delta.any()):
        return None
    return Update((delta if site.axis else delta.T).contiguous())
