from pathlib import Path

import pytest
import torch
from torch import nn

from eutectic.calibrate.own import measure
from eutectic.errors import CalibrationError
from eutectic.stats.gradients import FisherDiagonal
from eutectic.stats.inputs import InputGram
from eutectic.stats.store import Store

GRAM, FISHER = InputGram(), FisherDiagonal()


def test_a_module_of_ones_own(tmp_path: Path) -> None:
    """Tensors or mappings; the same module and batches are the same results, which are not written twice."""
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(6, 3)
    store = Store(tmp_path)
    found = measure(model, [x[:4], x[4:]], [GRAM, FISHER], store)
    assert list(found.tensors(GRAM)) == ["0.weight", "2.weight"]
    assert list(found.tensors(FISHER)) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert torch.allclose(found.results[GRAM].measured("0.weight").load(), x.T @ x, atol=1e-5)
    named = measure(model, [{"input": x[:4]}, {"input": x[4:]}], [GRAM], store)
    assert torch.equal(named.results[GRAM].measured("2.weight").load(), found.results[GRAM].measured("2.weight").load())
    again = measure(model, [x[:4], x[4:]], [GRAM], store)
    assert again.results[GRAM].digest == found.results[GRAM].digest
    with torch.no_grad():
        model[0].bias.add_(1)
    assert measure(model, [x], [GRAM], store).results[GRAM].digest != found.results[GRAM].digest


def test_what_is_refused(tmp_path: Path) -> None:
    """No batches, batches of another kind, the merged model's statistics."""
    model, store = nn.Linear(2, 2), Store(tmp_path)
    with pytest.raises(CalibrationError, match="expected batches, found none"):
        measure(model, [], [GRAM], store)
    with pytest.raises(CalibrationError, match="found int"):
        measure(model, [3], [GRAM], store)
    with pytest.raises(CalibrationError, match="of the merged model; it needs a recipe"):
        measure(model, [torch.randn(2, 2)], [InputGram("merged")], store)
