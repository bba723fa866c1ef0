import math

import pytest
import torch

from eutectic.methods import METHODS
from eutectic.methods.declare import Elsewhere
from tests.make.sites import Job, merge, table


def doge(deltas: list[torch.Tensor], **values: object) -> torch.Tensor:
    """Returns the merged delta around a base of zeros."""
    return merge(("doge", values), deltas, torch.zeros_like(deltas[0]))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Returns random numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def reference(deltas: list[torch.Tensor], steps: int, rate: float, divisor: int, strength: float) -> torch.Tensor:
    """The loss by autograd and torch.optim.Adam, with full SVDs, in float64; nothing masked."""
    stack = torch.stack(deltas).double()
    sizes = strength / stack.flatten(1).norm(dim=1)[:, None, None]
    rank = min(stack.shape[1:])
    tops = [torch.linalg.svd(each, full_matrices=False).U[:, : rank // len(stack)] for each in stack]
    shared = torch.linalg.svd(torch.cat(tops, 1), full_matrices=False).U[:, : rank // divisor]
    correction = torch.zeros_like(stack[0], requires_grad=True)
    optimizer = torch.optim.Adam([correction], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        left = stack - (sizes * (stack + correction)).sum(0)
        (stack * left).sum(2).square().sum().backward()
        assert correction.grad is not None
        correction.grad -= shared @ (shared.T @ correction.grad)
        optimizer.step()
    return (sizes * (stack + correction.detach())).sum(0)


def test_sizes_by_hand() -> None:
    """Without steps: each delta is brought to norm 0.07. (3, 4) has norm 5, (0, 2) norm 2, with twice the weight."""
    found = doge([table([3, 4]), table([0, 2])], steps=0, density=1.0, weight=(1.0, 2.0))
    assert torch.allclose(found, table([0.07 * 0.6, 0.07 * 0.8 + 0.14]), atol=1e-7)


def test_step_by_hand() -> None:
    """Scalars 1 and 2, no shared subspace: sizes 0.07 and 0.035, A = 0.14, g = 0.105.

    Errors 1 (1 - 0.14) and 2 (2 - 0.14) are positive, the gradient -2 g (e_1 + 2 e_2) is negative: the correction is
    the rate. 0.07 (1 + 1/2) + 0.035 (2 + 1/2).
    """
    found = doge([table([1]), table([2])], steps=1, rate=0.5, density=1.0)
    assert found.item() == pytest.approx(0.07 * 1.5 + 0.035 * 2.5)


def test_mask_over_all_tensors() -> None:
    """Of 8 elements, int(8 * 0.25) + 1 = 3 are kept, wherever they are: 9, 8 and 7; the sizes are each tensor's own."""
    small, large = table([1, 2], [3, 7]), table([4, 8], [5, 9])
    zero = torch.zeros(2, 2)
    job = Job([("doge", {"steps": 0, "density": 0.25})], [{"a": small, "b": large}], {"a": zero, "b": zero})
    merged = job.run()
    assert torch.allclose(merged.tensor("a"), table([0, 0], [0, 7]) * 0.07 / math.sqrt(1 + 4 + 9 + 49))
    assert torch.allclose(merged.tensor("b"), table([0, 8], [0, 9]) * 0.07 / math.sqrt(16 + 64 + 25 + 81))


@pytest.mark.parametrize("exact", [False, True], ids=["shortcut", "exact"])
@pytest.mark.parametrize("shape", [(24, 16), (16, 24)], ids=str)
def test_like_the_port(shape: tuple[int, int], exact: bool) -> None:
    """Thirty steps outside the shared subspace; the correction, not only the sum, agrees."""
    deltas = [normal(*shape, seed=at) for at in range(3)]
    expected = reference(deltas, 30, 1e-2, 6, 0.07)
    start = doge(deltas, steps=0, density=1.0)
    found = doge(deltas, steps=30, rate=1e-2, density=1.0, exact=exact)
    assert (found - expected).norm() < 1e-3 * (start - expected).norm()


def test_a_model_without_a_delta_takes_no_part() -> None:
    """Its norm would divide."""
    found = doge([normal(6, 4, seed=1), torch.zeros(6, 4)], steps=9, density=1.0)
    assert found.isfinite().all()
    assert found.norm() == pytest.approx(0.07, rel=0.2)


def test_elsewhere() -> None:
    """The port keeps the base of all other tensors."""
    assert METHODS["doge"].elsewhere(4, others="base") == Elsewhere(None)
    assert METHODS["doge"].elsewhere(4, others="mean") == Elsewhere("task_arithmetic", {"scale": 0.25})
