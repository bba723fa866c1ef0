from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from eutectic.calibrate.batches import Batch
from eutectic.calibrate.gradients import FrozenHead, check_head, differentiate, logits_of, read_head
from eutectic.errors import CalibrationError
from eutectic.stats.gradients import FisherDiagonal, GradientMagnitude

EXACT, LOSS = FisherDiagonal("exact"), GradientMagnitude("each")


class Classifier(nn.Module):
    """A linear classifier of three classes, and a map that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.map, self.unused = nn.Linear(4, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits."""
        out: Tensor = self.map(x)
        return out


def batches(x: Tensor, labels: Tensor | None, size: int) -> list[Batch]:
    """Batches of rows."""
    cut = [None] * len(x.split(size)) if labels is None else labels.split(size)
    return [Batch({"x": rows}, (), own, len(rows)) for rows, own in zip(x.split(size), cut, strict=True)]


def test_batches_and_order_change_nothing() -> None:
    """Sample by sample, however they are batched; what predictions do not hang on has zeros."""
    model, x, labels = Classifier(), torch.randn(7, 4), torch.arange(7) % 3
    parameters = dict(model.named_parameters())
    first = differentiate(model, parameters, batches(x, labels, 3), [EXACT, LOSS])
    turned = differentiate(model, parameters, batches(x.flip(0), labels.flip(0), 7), [EXACT, LOSS])
    for statistic in (EXACT, LOSS):
        for name, outcome in first[statistic].items():
            other = turned[statistic][name].result
            assert outcome.result is not None
            assert other is not None
            assert torch.allclose(outcome.result, other, rtol=1e-5, atol=1e-8)
            assert outcome.rows == 7
        unused = first[statistic]["unused.weight"].result
        assert unused is not None
        assert not unused.any()
    assert not any(parameter.requires_grad for parameter in parameters.values())


def test_labels_must_be_there_and_in_range() -> None:
    """Before anything is differentiated."""
    model, x = Classifier(), torch.randn(4, 4)
    with pytest.raises(CalibrationError, match="expected samples with labels"):
        differentiate(model, dict(model.named_parameters()), batches(x, None, 2), [LOSS])
    with pytest.raises(CalibrationError, match="labels from 0 to 2"):
        check_head(model, batches(x, torch.tensor([0, 1, 2, 3]), 2), None)


def test_gradients_that_are_not_finite_are_named() -> None:
    """By the tensor."""
    model = Classifier()
    with torch.no_grad():
        model.map.bias.fill_(torch.inf)
    with pytest.raises(CalibrationError, match=r"map\.weight: its gradients are NaN or infinite"):
        differentiate(model, dict(model.named_parameters()), batches(torch.randn(2, 4), None, 2), [EXACT])


def test_a_frozen_head_by_hand(tmp_path: Path) -> None:
    """Cosines with the rows, times the scale, plus the bias: (3, 3) against (2, 0) and (1, 1)."""
    feature = torch.tensor([[3.0, 3.0]])
    save_file(
        {"weight": torch.tensor([[2.0, 0.0], [1.0, 1.0]]), "bias": torch.tensor([0.0, 1.0])}, tmp_path / "h.safetensors"
    )
    head = read_head(tmp_path / "h.safetensors", "mean", True, 10.0, 2)
    assert torch.allclose(head(feature), torch.tensor([[10 * 0.5**0.5, 11.0]]))
    assert FrozenHead(torch.eye(2), None, "first", False, 2.0)(feature).tolist() == [[6.0, 6.0]]
    with pytest.raises(CalibrationError, match="features of width 2, found one of 3"):
        FrozenHead(torch.eye(3), None, "mean", False, 1.0)(feature)


def test_a_model_without_predictions_is_refused() -> None:
    """With where to name a head."""

    class Bare(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"hidden": x}

    with pytest.raises(CalibrationError, match=r"Bare, which has no head; name one under calibration\.head"):
        logits_of(Bare(), batches(torch.randn(1, 4), None, 1)[0], None)
