"""Adam against torch's own, step by step."""

import pytest
import torch

from eutectic.numerics.adam import Adam


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_like_torch(dtype: torch.dtype) -> None:
    """Fifty steps on a parabola with a saddle end where torch.optim.Adam ends."""
    source = torch.Generator().manual_seed(0)
    start, goal = (torch.randn(5, 3, generator=source, dtype=dtype) for _ in range(2))
    theirs = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=1e-2)
    ours = Adam(start.clone(), 1e-2)
    for _ in range(50):
        optimizer.zero_grad()
        ((theirs - goal) ** 3).sum().backward()
        optimizer.step()
        ours.step(3 * (ours.values - goal) ** 2)
    assert torch.allclose(ours.values, theirs.detach(), rtol=1e-6, atol=1e-7)


def test_it_goes_on_from_its_moments() -> None:
    """Stopped and resumed is not stopped."""
    one, other = Adam(torch.ones(2), 0.1), Adam(torch.ones(2), 0.1)
    for step in range(6):
        if step == 3:
            mean, square, steps = other.moments
            values, other = other.values, Adam(other.values.clone(), 0.1)
            other.resume(mean.clone(), square.clone(), steps)
            assert torch.equal(values, other.values)
        for adam in (one, other):
            adam.step(adam.values - step)
    assert torch.equal(one.values, other.values)


def test_the_first_step_has_the_rate_for_its_length() -> None:
    """Moments over their corrections are g and g^2: the step is rate * g / (|g| + 1e-8); of no gradient, nothing."""
    ours = Adam(torch.zeros(3, dtype=torch.float64), 0.5)
    ours.step(torch.tensor([2.0, -1e-8, 0.0], dtype=torch.float64))
    assert torch.allclose(ours.values, torch.tensor([-0.5, 0.25, 0.0], dtype=torch.float64), atol=1e-8)
