import numpy as np
import pytest
import torch

from eutectic.stats.competition import Inter, MagnitudeEdges, ScoreEdges, clipped, scores
from eutectic.stats.fold import Scope
from tests.laws.test_stats import WAYS, Sweep, job, party, same

EDGES = MagnitudeEdges(Scope.MODEL, 0.1)


def deltas() -> torch.Tensor:
    """Returns all differences from the base: (3, elements)."""
    models, base = party()
    return torch.stack([torch.cat([(model[name] - base[name]).reshape(-1) for name in base]) for model in models])


@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
def test_magnitudes_against_sorting(fused: bool) -> None:
    """Number int(d / 10) and number int(d * 0.9 - 1), counted from 0."""
    size = deltas().abs().sort(1).values
    d = size.shape[1]
    expected = torch.stack([size[:, int(d * 0.1)], size[:, int(d * 0.9 - 1)]])
    assert np.array_equal(Sweep()(EDGES, job(False, fused)), expected.double().numpy())


@pytest.mark.parametrize("inter", ["pairs", "sum"])
def test_scores_against_sorting(inter: Inter) -> None:
    """Number int(d * 0.8), which may be negative, and the largest."""
    found = Sweep()(ScoreEdges(Scope.MODEL, EDGES, inter, 0.2), job(False, False))
    # Tensor by tensor, as they are shown: the last bit of exp may depend on where an element lies.
    models, base = party()
    edges = Sweep()(EDGES, job(False, False))
    shown = [torch.stack([model[name] - base[name] for model in models]).reshape(3, -1) for name in base]
    every = torch.cat([scores(each, edges, inter) for each in shown], 1).sort(1).values
    expected = torch.stack([every[:, int(every.shape[1] * 0.8)], every[:, -1]])
    np.testing.assert_allclose(found, expected.double().numpy(), rtol=1e-6)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.999, 1.0])
def test_negative_scores_have_their_order(ratio: float) -> None:
    """Whatever the share, the cut is the score that sorting finds."""
    edges = Sweep()(EDGES, job(False, False))
    found = Sweep()(ScoreEdges(Scope.MODEL, EDGES, "sum", ratio), job(False, False))
    every = scores(deltas(), edges, "sum").sort(1).values
    d = every.shape[1]
    cut = every[:, min(int(d * (1 - ratio)), d - 1)]
    np.testing.assert_allclose(found, torch.stack([cut, every[:, -1]]).double().numpy(), rtol=1e-6)


@pytest.mark.parametrize("statistic", [EDGES, ScoreEdges(Scope.MODEL, EDGES)], ids=["magnitudes", "scores"])
def test_showing_changes_nothing(statistic: MagnitudeEdges | ScoreEdges) -> None:
    """As for every statistic of the weights."""
    plain = Sweep()(statistic, job(False, False))
    assert [way for way, sweep in WAYS.items() if not same(sweep(statistic, job(False, False)), plain)] == []


def test_clipped_by_hand() -> None:
    """Magnitudes between 1 and 3, and where they lie; a model whose edges are equal lies nowhere."""
    size, share = clipped(torch.tensor([[0.5, -2.0, 4.0], [1.0, 1.0, 1.0]]), np.array([[1.0, 1.0], [3.0, 1.0]]))
    assert size.tolist() == [[1, 2, 3], [1, 1, 1]]
    assert share.tolist() == [[0, 0.5, 1], [0, 0, 0]]
