"""The descent alone: Adam's steps, what clamping does, resuming."""

import pytest
import torch

from eutectic.search.adamerging import Learnt, adamerging, used

GOAL = torch.tensor([[0.9, -0.5], [0.2, 1.4]])


def descend(values: torch.Tensor, step: int) -> tuple[float, torch.Tensor]:
    """Half the squared distance from a goal, of which two numbers lie outside of 0 to 1."""
    return float(0.5 * (values - GOAL).square().sum()), values - GOAL


def learnt(steps: int, *, clamp: bool = True, state: Learnt | None = None) -> Learnt:
    """The state after so many steps from 0.3."""
    begin = Learnt.start(torch.full((2, 2), 0.3)) if state is None else state
    return adamerging(begin, descend, steps=steps, rate=0.01, clamp=clamp)


def test_the_first_step_by_hand() -> None:
    """Adam's first step has the rate for its length: 0.3 towards each goal by 0.01. The loss is that before it.

    0.5 (0.6^2 + 0.8^2 + 0.1^2 + 1.1^2) = 1.11.
    """
    found = learnt(1)
    assert torch.allclose(found.raw, torch.tensor([[0.31, 0.29], [0.29, 0.31]]))
    assert found.losses == (pytest.approx(1.11),)


@pytest.mark.parametrize("clamp", [True, False])
def test_like_autograd_through_clamp(clamp: bool) -> None:
    """Torch's Adam on raw values whose clamped ones enter the loss."""
    raw = torch.full((2, 2), 0.3, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        (0.5 * ((raw.clamp(0, 1) if clamp else raw) - GOAL).square().sum()).backward()
        optimizer.step()
    found = learnt(200, clamp=clamp)
    assert torch.allclose(found.raw, raw.detach(), atol=1e-5)
    assert bool(((used(found.raw, clamp) >= 0) & (used(found.raw, clamp) <= 1)).all()) == clamp


def test_stopped_anywhere_it_ends_at_the_same() -> None:
    """States are heard after every step, and each is enough to go on."""
    heard: list[Learnt] = []
    begin = Learnt.start(torch.full((2, 2), 0.3))
    whole = adamerging(begin, descend, steps=9, rate=0.01, hear=heard.append)
    assert [len(state.losses) for state in heard] == list(range(1, 10))
    for state in (begin, *heard):
        again = learnt(9, state=state)
        assert torch.equal(again.raw, whole.raw)
        assert again.losses == whole.losses
