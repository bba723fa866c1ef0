"""Adapters of features by hand, their derivatives against autograd, and the fit."""

import pytest
import torch

from eutectic.search.surgery import FeatureAdapter, fit


def features(seed: int, rows: int = 40, width: int = 6) -> torch.Tensor:
    """Random features."""
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def test_by_hand() -> None:
    """D z = 2 - 1 = 1 and -1; relu leaves 1; U takes (1, 3) away. From (0, 0) that is 1 and -4: 2.5 in the mean."""
    adapter = FeatureAdapter(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    features = torch.tensor([[2.0, -1.0]])
    assert adapter(features).tolist() == [[1.0, -4.0]]
    assert adapter.distance(features, torch.zeros(1, 2)) == 2.5


def test_derivatives_are_those_of_autograd() -> None:
    """Of the mean absolute difference."""
    down, up = features(0, 4).requires_grad_(), features(1, 6, 4).requires_grad_()
    merged, expert = features(2), features(3)
    torch.nn.functional.l1_loss(merged - torch.relu(merged @ down.T) @ up.T, expert).backward()
    found = FeatureAdapter(down.detach(), up.detach()).derivatives(merged, expert)
    for ours, theirs in zip(found, (down.grad, up.grad), strict=True):
        assert theirs is not None
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_it_starts_as_it_was_and_comes_nearer() -> None:
    """`up` is zero, `down` within 1 / sqrt(width); a fit is a function of its seed."""
    merged = features(0)
    expert = merged + 0.3 * torch.relu(merged) - 0.1
    start = FeatureAdapter.start(6, 4, 7, "t")
    assert torch.equal(start(merged), merged)
    assert 0.3 < float(start.down.abs().max()) <= 6**-0.5
    assert not torch.equal(start.down, FeatureAdapter.start(6, 4, 8, "t").down)
    found = fit(merged, expert, start, steps=200, size=16, rate=1e-2)
    again = fit(merged, expert, start, steps=200, size=16, rate=1e-2)
    other = fit(merged, expert, start, steps=200, size=16, rate=1e-2, seed=1)
    assert found.distance(merged, expert) < 0.7 * start.distance(merged, expert)
    assert torch.equal(found.up, again.up)
    assert not torch.equal(found.up, other.up)


@pytest.mark.parametrize("size", [40, 64])
def test_all_at_once_is_gradient_descent_on_all(size: int) -> None:
    """One batch of everything has the derivative of everything, whatever is drawn."""
    merged, expert = features(0), features(1)
    start = FeatureAdapter.start(6, 4, 0, "t")
    found = fit(merged, expert, start, steps=1, batches=1, size=size, rate=1e-3)
    # The first step of Adam has the rate for its length; `down` has no derivative while `up` is zero.
    step = -1e-3 * start.derivatives(merged, expert)[1].sign()
    assert torch.allclose(found.up, step, atol=1e-6)
    assert torch.equal(found.down, start.down)
