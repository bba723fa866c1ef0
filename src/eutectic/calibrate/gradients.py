"""Backward passes that feed statistics of gradients: the whole model in memory, sample by sample or batch by batch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eutectic.calibrate.batches import Batch
from eutectic.calibrate.data import read_arrays
from eutectic.calibrate.features import feature_of
from eutectic.calibrate.passes import forward
from eutectic.calibrate.skeleton import Fitted, Skeleton
from eutectic.errors import CalibrationError
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.gradients import OfGradients
from eutectic.stats.store import Outcome


@dataclass(frozen=True)
class FrozenHead:
    """A classifier outside of the model: logits = scale * feature @ weight^T + bias.

    Attributes:
        weight: (classes, width); with rows of length 1 if features are normalised.
        bias: (classes), or None.
        pool: which feature of a sequence.
        normalize: features are divided by their length.
        scale: what logits are multiplied by.
    """

    weight: Tensor
    bias: Tensor | None
    pool: str
    normalize: bool
    scale: float

    def __call__(self, feature: Tensor) -> Tensor:
        """Returns the logits of features, (samples, width)."""
        if feature.shape[-1] != self.weight.shape[1]:
            raise CalibrationError(
                f"expected a head for features of width {feature.shape[-1]}, found one of {self.weight.shape[1]}"
            )
        if self.normalize:
            feature = torch.nn.functional.normalize(feature, dim=-1)
        logits = self.scale * (feature @ self.weight.T)
        return logits if self.bias is None else logits + self.bias


def read_head(path: Path, pool: str, normalize: bool, scale: float, width: int | None) -> FrozenHead:
    """Reads a head's file.

    Raises:
        CalibrationError: when it holds no `weight`, or one that does not fit features of this width.
    """
    found = read_arrays(path)
    weight = found.get("weight")
    if weight is None or weight.ndim != 2:
        names = ", ".join(f"{name} {list(array.shape)}" for name, array in found.items())
        raise CalibrationError(
            f"{path}: expected a head's weight of shape (classes, width), found {names or 'nothing'}"
        )
    if width is not None and weight.shape[1] != width:
        raise CalibrationError(
            f"{path}: expected a head for features of width {width}, found one of {weight.shape[1]}; it belongs to "
            "another model"
        )
    rows = torch.from_numpy(weight)
    rows = torch.nn.functional.normalize(rows, dim=-1) if normalize else rows
    bias = None if "bias" not in found else torch.from_numpy(found["bias"])
    return FrozenHead(rows, bias, pool, normalize, scale)


def logits_of(module: "torch.nn.Module", batch: Batch, head: FrozenHead | None) -> Tensor:
    """Returns a batch's predictions.

    Raises:
        CalibrationError: when the model makes none, and there is no head.
    """
    if head is not None:
        return head(feature_of(module, batch, head.pool))
    out = forward(module, batch)
    found = out if isinstance(out, torch.Tensor) else getattr(out, "logits", getattr(out, "logits_per_image", None))
    if not isinstance(found, torch.Tensor):
        raise CalibrationError(
            f"expected a model that predicts, found {type(module).__name__}, which has no head; name one under "
            "calibration.head"
        )
    return found


def differentiate(
    module: "torch.nn.Module",
    parameters: Mapping[str, Any],
    batches: Sequence[Batch],
    statistics: Sequence[OfGradients],
    *,
    head: FrozenHead | None = None,
    seed: int = 0,
    tell: Callable[[], None] = lambda: None,
) -> dict[OfGradients, dict[str, Outcome]]:
    """Takes statistics of gradients over batches.

    Args:
        module: with its weights.
        parameters: those whose gradients are taken, by name.
        batches: the samples, in order.
        statistics: what is taken.
        head: what stands on the model, if it is not its own.
        seed: of drawn labels.
        tell: called after each batch.

    Raises:
        CalibrationError: when labels are missing or out of range, or a gradient is not finite.
    """
    check_labels(batches, statistics)
    leaves = list(parameters.values())
    for leaf in leaves:
        leaf.requires_grad_(True)
    states = {each: [each.init(tuple(leaf.shape)) for leaf in leaves] for each in statistics}
    generators = {each: torch.Generator().manual_seed(seed) for each in statistics}
    count = 0
    for batch in batches:
        for statistic in statistics:
            pieces = [batch] if statistic.batched else [batch.one(at) for at in range(batch.size)]
            for piece in pieces:
                logits = logits_of(module, piece, head)
                _check_range(piece, logits)
                for gradients in _gradients(statistic, logits, piece, leaves, generators[statistic]):
                    for state, gradient in zip(states[statistic], gradients, strict=True):
                        if gradient is not None:
                            statistic.update(state, gradient)
        count += batch.size
        tell()
    for leaf in leaves:
        leaf.requires_grad_(False)
    return {
        statistic: {
            name: _outcome(name, statistic.finish(state, count), count)
            for name, state in zip(parameters, states[statistic], strict=True)
        }
        for statistic in statistics
    }


def _gradients(
    statistic: OfGradients, logits: Tensor, batch: Batch, leaves: list[Any], generator: "torch.Generator"
) -> Iterator[tuple[Tensor | None, ...]]:
    scalars = list(statistic.scalars(logits, batch.labels, generator))
    for number, scalar in enumerate(scalars):
        yield torch.autograd.grad(scalar, leaves, retain_graph=number + 1 < len(scalars), allow_unused=True)


def _outcome(name: str, result: Tensor, count: int) -> Outcome:
    if not bool(torch.isfinite(result).all()):
        raise CalibrationError(
            f"{name}: its gradients are NaN or infinite; the model's weights or the samples are broken, or its numbers "
            "are too large for float32"
        )
    return Outcome(count, 0, result)


def check_labels(batches: Sequence[Batch], statistics: Sequence[OfGradients]) -> None:
    """Checks that samples have labels, if a statistic needs them.

    Raises:
        CalibrationError: when they have none.
    """
    if any(each.labelled for each in statistics) and any(batch.labels is None for batch in batches):
        raise CalibrationError(
            "expected samples with labels, found some without; name their column under calibration.label"
        )


def check_head(module: "torch.nn.Module", batches: Sequence[Batch], head: FrozenHead | None) -> None:
    """Checks that a model predicts, that its head fits, and that all labels are classes, by one sample.

    Raises:
        CalibrationError: when not.
    """
    with torch.no_grad():
        logits = logits_of(module, batches[0].one(0), head)
    for batch in batches:
        _check_range(batch, logits)


def _check_range(batch: Batch, logits: Tensor) -> None:
    labels = batch.labels
    if labels is None or logits.dim() > 2 or labels.dim() > 1:
        return
    if int(labels.max()) >= logits.shape[-1] or int(labels.min()) < 0:
        raise CalibrationError(
            f"expected labels from 0 to {logits.shape[-1] - 1}, as the head has {logits.shape[-1]} classes; found "
            f"{int(labels.max())}"
        )


def gradients_of(skeleton: Skeleton, fitted: Fitted, wanted: Sequence[str]) -> dict[str, Any]:
    """Loads a whole model and returns its parameters by a checkpoint's names, those that are wanted and it has."""
    for part in (None, *skeleton.blocks):
        skeleton.load(part, fitted)
    names = skeleton.parameters(fitted)
    own = dict(skeleton.module.named_parameters())
    return {stored: own[names[stored][0]] for stored in wanted if stored in names and names[stored][0] in own}
