import pytest
import torch

from eutectic.methods import METHODS
from eutectic.methods.declare import Elsewhere
from tests.make.sites import merge, table


def wudi(deltas: list[torch.Tensor], **values: object) -> torch.Tensor:
    """Returns the merged delta around a base of zeros."""
    return merge(("wudi", values), deltas, torch.zeros_like(deltas[0]))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Returns random numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def authors_way(deltas: list[torch.Tensor], steps: int, rate: float) -> torch.Tensor:
    """The loss as the paper writes it, by autograd and torch.optim.Adam, in float64."""
    stack = torch.stack(deltas).double()
    merged = stack.sum(0).requires_grad_()
    optimizer = torch.optim.Adam([merged], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        losses = ((merged - stack) @ stack.transpose(1, 2)).square().sum((1, 2)) / stack.square().sum((1, 2))
        losses.sum().backward()
        optimizer.step()
    return merged.detach()


def test_by_hand() -> None:
    """Scalars 2 and 4: A = 4/4 + 16/16 = 2, B = 8/4 + 64/16 = 6, X = 6, gradient 2 (2 * 6 - 6) = 12.

    Adam's first step has the length of the rate, so X = 6 - 1/8. The minimum is B / A = 3.
    """
    deltas = [table([2]), table([4])]
    assert wudi(deltas, steps=0) == 6
    assert wudi(deltas, steps=1, rate=0.125).item() == pytest.approx(5.875)
    assert wudi(deltas, steps=3000, rate=0.01).item() == pytest.approx(3, abs=1e-3)


def test_one_model_is_kept() -> None:
    """The delta of a single model is at the minimum: no step moves it."""
    one = normal(6, 4)
    assert torch.allclose(wudi([one], steps=50), one, atol=1e-3)


def test_weight() -> None:
    """Scalars 2 and 4 with weights 2 and 1/2 are 4 and 2: the start is 6, the minimum their mean again."""
    assert wudi([table([2]), table([4])], weight=(2.0, 0.5), steps=0) == 6
    assert wudi([table([2]), table([4])], weight=(3.0, 0.5), steps=0) == 8


def test_a_model_without_a_delta_takes_no_part() -> None:
    """Its norm would divide."""
    deltas = [normal(6, 4, seed=1), torch.zeros(6, 4), normal(6, 4, seed=2)]
    assert torch.equal(wudi(deltas, steps=9), wudi([deltas[0], deltas[2]], steps=9))


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (3, 40), (300, 8)], ids=str)
def test_like_the_authors(shape: tuple[int, int]) -> None:
    """With A formed, and (three rows, forty columns) without; with more rows than take their steps together."""
    deltas = [normal(*shape, seed=at) for at in range(3)]
    expected = authors_way(deltas, 40, 1e-2)
    start = sum(deltas[1:], deltas[0])
    found = wudi(deltas, steps=40, rate=1e-2)
    assert (found - expected).norm() < 1e-3 * (start - expected).norm()


def test_elsewhere() -> None:
    """The authors keep the base of all other tensors; fusion_bench adds the mean of the deltas."""
    assert METHODS["wudi"].elsewhere(4, others="base", steps=1) == Elsewhere(None)
    assert METHODS["wudi"].elsewhere(4, others="mean") == Elsewhere("task_arithmetic", {"scale": 0.25})
