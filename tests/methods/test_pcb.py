import math

import pytest
import torch

from tests.make.sites import Job, merge

#: What goes with the sum of all is measured in absolute numbers.
LAWS_ASIDE = {"inter": {"scale"}}
TRIED = {"clip": [0.25, 0.5]}
BASE = torch.ones(5)
DELTAS = torch.tensor([[1.0, 2.0, 3.0, 4.0, -5.0], [2.0, -1.0, 3.0, 4.0, 5.0]])


def pcb(**values: object) -> torch.Tensor:
    """Returns the merged delta of two models, unscaled."""
    models = list(BASE + DELTAS)
    return merge(("pcb", {"scale": 1.0, **values}), models, BASE, double=True, out="F64") - BASE


def test_pairs_by_hand() -> None:
    """Without clipping, shares are (m - 1) / 4; of five scores the best two count, the lesser of them with 0.

    The first model's shares are 0, 1/4, 1/2, 3/4 and -1: its scores are exp(2 s^2) (tanh(s s) + tanh(s s')), which is
    largest at 4, where both models have 3/4. The same holds for the second, whose fifth score is negative.
    """
    s = torch.tensor([[0, 0.25, 0.5, 0.75, -1], [0.25, 0, 0.5, 0.75, 1]], dtype=torch.float64)
    score = torch.exp(2 * s**2) * (torch.tanh(s * s[0]) + torch.tanh(s * s[1]))
    assert score.argmax(1).tolist() == [3, 3]
    assert score[:, 4].abs().max() < 1e-15
    found = pcb(clip=0.0, ratio=0.4)
    # The cut is the fourth smallest score, that of 3: only the element of 4 is above it.
    assert found.tolist() == [0, 0, 0, 4, 0]


def test_sum_by_hand() -> None:
    """Scores are exp(2 s^2) tanh(delta * sum): the sums are 3, 1, 6, 8 and 0; with 0.6 the cut is the third score."""
    s = torch.tensor([[0, 0.25, 0.5, 0.75, 1], [0.25, 0, 0.5, 0.75, 1]], dtype=torch.float64)
    score = torch.exp(2 * s**2) * torch.tanh(DELTAS.double() * DELTAS.double().sum(0))
    cut, best = score.sort(1).values[:, 2:3], score.amax(1, keepdim=True)
    weight = (score.clamp(min=cut) - cut) / (best - cut)
    expected = (DELTAS * weight).sum(0) / weight.sum(0).clamp(min=1e-12)
    assert torch.allclose(pcb(clip=0.0, ratio=0.6, inter="sum"), expected, rtol=1e-12)
    assert expected[3] == 4
    assert expected[4] == 0


def test_shares_by_hand() -> None:
    """Scores are exp(2 s^2) tanh(delta * sum of signed shares): they are 1/4, 1/4, 1, 3/2 and 0."""
    s = torch.tensor([[0, 0.25, 0.5, 0.75, 1], [0.25, 0, 0.5, 0.75, 1]], dtype=torch.float64)
    score = torch.exp(2 * s**2) * torch.tanh(DELTAS.double() * torch.tensor([0.25, 0.25, 1.0, 1.5, 0.0]).double())
    cut, best = score.sort(1).values[:, 2:3], score.amax(1, keepdim=True)
    weight = (score.clamp(min=cut) - cut) / (best - cut)
    expected = (DELTAS * weight).sum(0) / weight.sum(0).clamp(min=1e-12)
    assert torch.allclose(pcb(clip=0.0, ratio=0.6, inter="shares"), expected, rtol=1e-12)
    assert expected[3] == 4


def test_magnitudes_are_clipped() -> None:
    """With a fifth at either end, of five magnitudes the second and, int(5 * 0.8 - 1) = 3, the fourth: 2 to 4."""
    model = torch.tensor([1.0, 2.0, 3.0, 4.0, 9.0])
    found = merge(("pcb", {"scale": 1.0, "clip": 0.2, "ratio": 0.5}), [model], torch.zeros(5))
    # 4 and 9 both score best; 3 is the cut.
    assert found.tolist() == [0, 0, 0, 4, 4]


def test_weights_and_scale() -> None:
    """They multiply the clipped deltas, behind the competition."""
    plain = pcb(clip=0.0, ratio=0.4)
    assert torch.equal(pcb(clip=0.0, ratio=0.4, scale=1.5), 1.5 * plain)
    assert torch.equal(pcb(clip=0.0, ratio=0.4, weight=(3.0, 1.0)), 2 * plain)


def test_quantiles_are_of_the_model() -> None:
    """The winner of all tensors counts in its own; the other tensor stays the base."""
    models = [{"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 8.0])}]
    base = {name: torch.zeros(2) for name in models[0]}
    job = Job([("pcb", {"scale": 1.0, "clip": 0.0, "ratio": 0.5})], models, base).run()
    # Scores of (m - 1) / 7: the cut is the third, that of 3.
    assert job.tensor("a").tolist() == [0, 0]
    assert job.tensor("b").tolist() == [0, 8]


@pytest.mark.parametrize("inter", ["pairs", "sum"])
def test_where_all_are_equal_nothing_counts(inter: str) -> None:
    """There is no best: the base is left, and nothing is divided by zero."""
    found = merge(("pcb", {"inter": inter}), [torch.full((4,), 2.0)], torch.ones(4))
    assert found.tolist() == [1, 1, 1, 1]
    assert not math.isnan(float(found.sum()))
