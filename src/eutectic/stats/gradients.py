"""Statistics of gradients, in the shape of the weights: the diagonal of the Fisher matrix, and mean magnitudes.

Each names the scalars whose gradients it takes, and what it adds up of them. `outputs` are logits: (batch, classes),
or (batch, tokens, words) of a language model, where the label of a token is the next one. A label of -100 is none.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from eutectic.errors import CalibrationError
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Accumulated, Of, Origin, Sees

#: The label of what has none.
NO_LABEL = -100


class OfGradients(Accumulated):
    """What the statistics of this file share."""

    origin = Origin.GRADIENTS
    aligned = True
    #: Whether the gradient of a batch's sum is taken at once, rather than that of each sample.
    batched: bool = False
    #: Whether samples must come with labels.
    labelled: bool = False

    def takes(self, sees: Sees) -> bool:
        return sees is Sees.GRADIENTS

    @abstractmethod
    def scalars(self, outputs: Tensor, labels: Tensor | None, generator: "torch.Generator") -> Iterator[Tensor]:
        """Yields the scalars of a batch (of one sample, unless `batched`) whose gradients are added up."""

    def init(self, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64)

    def finish(self, state: Tensor, count: int) -> Tensor:
        return (state / max(count, 1)).float()


def _likelihoods(outputs: Tensor, labels: Tensor | None) -> Tensor:
    """The log-likelihood of each sample's labels, averaged over its tokens: (batch,)."""
    if labels is None:
        raise CalibrationError("expected labels, found none; name their column under calibration.label")
    logs = outputs.log_softmax(-1)
    if outputs.dim() == 3:
        logs, labels = logs[:, :-1], labels[:, 1:]
    known = labels != NO_LABEL
    picked = logs.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1).masked_fill(~known, 0.0)
    return picked if picked.dim() == 1 else picked.sum(1) / known.sum(1).clamp_min(1)


@dataclass(frozen=True)
class FisherDiagonal(OfGradients):
    """The diagonal of the Fisher matrix, averaged over samples.

    `exact`: the expectation over classes, sum_y p_y (d log p_y)^2, of each sample. `sampled`: one label a sample,
    drawn from the model's own prediction. `empirical`: the given label (of a language model, the next tokens).
    `batch`: as MergeLM and fusion_bench compute it, the square of the gradient of a whole batch's
    sum_y sqrt(p_y) log p_y, which mixes samples and labels.
    """

    kind: Literal["exact", "sampled", "empirical", "batch"] = "exact"

    @property
    def batched(self) -> bool:  # type: ignore[override]
        return self.kind == "batch"

    @property
    def labelled(self) -> bool:  # type: ignore[override]
        return self.kind == "empirical"

    def scalars(self, outputs: Tensor, labels: Tensor | None, generator: "torch.Generator") -> Iterator[Tensor]:
        if self.kind == "empirical":
            yield _likelihoods(outputs, labels).sum()
            return
        logs = outputs.log_softmax(-1)
        chances = logs.detach().exp()
        if self.kind == "sampled":
            drawn = torch.multinomial(chances.flatten(0, -2), 1, generator=generator).reshape(*outputs.shape[:-1], 1)
            picked = logs.gather(-1, drawn).squeeze(-1)
            yield picked.flatten(1).mean(1).sum() if picked.dim() > 1 else picked.sum()
            return
        if outputs.dim() > 2:
            raise CalibrationError(
                f"expected a classifier for the {self.kind} Fisher, found a prediction for every token; set kind: "
                "empirical, or sampled"
            )
        if self.kind == "batch":
            yield (chances.sqrt() * logs).sum()
        else:
            yield from (chances.sqrt() * logs)[0]

    def update(self, state: Tensor, seen: Tensor) -> None:
        state += seen.double().square_()


@dataclass(frozen=True)
class GradientMagnitude(OfGradients):
    """The mean magnitude of each sample's own gradient of the loss (cross-entropy of its label).

    `of` says at whose weights: each model's, or the base's on each model's data (TATR).
    """

    of_: Literal["each", "base"] = "base"
    labelled = True

    @property
    def of(self) -> Of:  # type: ignore[override]
        return Of(self.of_)

    def scalars(self, outputs: Tensor, labels: Tensor | None, generator: "torch.Generator") -> Iterator[Tensor]:
        yield -_likelihoods(outputs, labels).sum()

    def update(self, state: Tensor, seen: Tensor) -> None:
        state += seen.double().abs_()
