"""Statistics of one's own module on one's own batches, for models that no recipe can run."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eutectic.calibrate.batches import Batch
from eutectic.calibrate.data import LABELS
from eutectic.calibrate.gradients import check_labels, differentiate
from eutectic.calibrate.observe import Collector
from eutectic.calibrate.passes import forward, masks_of
from eutectic.errors import CalibrationError
from eutectic.numerics.tensors import Tensor, torch
from eutectic.plan.steps import Calibration, Plan
from eutectic.stats.fold import Accumulated, Calibrated, Of, Origin
from eutectic.stats.gradients import OfGradients
from eutectic.stats.store import Outcome, Results, Store

#: The one part of results that no block made.
PART = "rest"


@dataclass(frozen=True)
class Statistics:
    """Results of calibration on one model, by statistic: `plan` takes one such for every model of a recipe."""

    results: Mapping[Calibrated, Results]

    def tensors(self, statistic: Calibrated) -> Iterable[str]:
        """Returns the names of the tensors that have a result."""
        return self.results[statistic].names()


def measure(
    module: "torch.nn.Module",
    batches: Iterable[object],
    statistics: Sequence[Calibrated],
    store: Store,
    *,
    include_padding: bool = False,
    seed: int = 0,
) -> Statistics:
    """Runs a module on batches and returns the statistics, kept in the store.

    Args:
        module: with its weights, in memory; parameters are called as in the model's files.
        batches: each what the module takes: a tensor, or a mapping of its keyword arguments, of which
            `attention_mask` says what is padding and `labels` are labels.
        statistics: what is taken.
        store: where results are kept.
        include_padding: padded tokens count.
        seed: of drawn labels.

    Raises:
        CalibrationError: when there are no batches, labels are missing, or something is not finite.
    """
    read = [_batch(raw) for raw in batches]
    if not read:
        raise CalibrationError("expected batches, found none")
    if any(each.of is Of.MERGED or each.origin is Origin.LEARNED for each in statistics):
        raise CalibrationError(
            "expected statistics of one model, found one of several together or of the merged model; it needs a recipe"
        )
    module.eval()
    outcomes: dict[Calibrated, dict[str, Outcome]] = _inputs(module, read, statistics, include_padding)
    gradients = [each for each in statistics if isinstance(each, OfGradients)]
    if gradients:
        check_labels(read, gradients)
        parameters = dict(module.named_parameters())
        for gradient, taken in differentiate(module, parameters, read, gradients, seed=seed).items():
            outcomes[gradient] = taken
    content = _digest(module, read)
    found: dict[Calibrated, Results] = {}
    for statistic, own in outcomes.items():
        facts = {
            "statistic": statistic.key,
            "model": type(module).__name__,
            "content": content,
            "samples": sum(batch.size for batch in read),
            "data": "own batches",
            "padding": include_padding,
            "seed": seed,
        }
        results = store.results(facts)
        if not results.finished:
            results.write(PART, own, statistic.symmetric)
            results.finish()
        found[statistic] = results
    return Statistics(found)


def _inputs(
    module: "torch.nn.Module", batches: Sequence[Batch], statistics: Sequence[Calibrated], include: bool
) -> dict[Calibrated, dict[str, Outcome]]:
    wanted = [each for each in statistics if isinstance(each, Accumulated) and each.origin is Origin.INPUTS]
    if not wanted:
        return {}
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    collector = Collector(dict.fromkeys(names, wanted), type(module).__name__)
    handles = collector.attach(module, "")
    try:
        with torch.no_grad():
            for batch in batches:
                collector.begin(masks_of(module, batch, include))
                forward(module, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {statistic: collector.take(names, statistic) for statistic in wanted}


def _batch(raw: object) -> Batch:
    if isinstance(raw, torch.Tensor):
        return Batch({"": raw}, (), None, len(raw))
    if not isinstance(raw, Mapping):
        raise CalibrationError(f"expected batches that are tensors or mappings of tensors, found {type(raw).__name__}")
    inputs: dict[str, Tensor] = {str(name): value for name, value in raw.items()}
    labels = inputs.pop(LABELS, None)
    mask = inputs.get("attention_mask")
    size = len(next(iter(inputs.values())))
    return Batch(inputs, (mask.bool(),) if mask is not None and mask.dim() == 2 else (), labels, size)


def _digest(module: "torch.nn.Module", batches: Sequence[Batch]) -> str:
    digest = hashlib.sha256()
    tensors: dict[str, Any] = dict(module.state_dict())
    for number, batch in enumerate(batches):
        tensors |= {f"{number} {name}": value for name, value in batch.inputs.items()}
        tensors |= {} if batch.labels is None else {f"{number} labels": batch.labels}
    for name, tensor in tensors.items():
        raw = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {raw.dtype} {list(raw.shape)}\0".encode())
        digest.update(raw.reshape(-1).view(torch.uint8).numpy().tobytes() if raw.numel() else b"")
    return digest.hexdigest()


def given(plan: Plan, statistics: Sequence[Statistics]) -> Calibration | None:
    """Returns a plan's calibration as it has been done already: what `measure` found of each model.

    Raises:
        CalibrationError: when there is not one for every model, or one lacks what the plan demands.
    """
    if not plan.demands:
        return None
    lead = 1 if plan.has_base else 0
    if len(statistics) != len(plan.inputs) - lead:
        raise CalibrationError(
            f"expected statistics of {len(plan.inputs) - lead} models, in their order, found {len(statistics)}"
        )
    found = []
    for demand in plan.demands:
        own = statistics[demand.source - lead].results.get(demand.statistic)
        if own is None:
            raise CalibrationError(
                f"{plan.inputs[demand.source].reference}: expected {demand.statistic.key} among its statistics, found "
                "others; take them for the recipe's own method"
            )
        found.append(own)
    digest = hashlib.sha256("\0".join(each.digest for each in found).encode()).hexdigest()
    digests = tuple(each.digest for each in found)
    done, said = (True,) * len(found), ("statistics given",)
    return Calibration(found[0].folder.parent, digests, done, said, 0, 0.0, digest, plan.job)
