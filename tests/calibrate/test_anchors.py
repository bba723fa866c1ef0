"""Anchors of one block: by hand, against finite differences, and what is refused."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from eutectic.calibrate.anchors import (
    Group,
    adapt,
    construct,
    induced,
    noise,
    similarities,
    twice_differentiable,
    weight_rows,
)
from eutectic.errors import CalibrationError


def linear(tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """One linear map."""
    return inputs @ tensors["w"].T


def generator() -> torch.Generator:
    """A fresh stream."""
    return torch.Generator().manual_seed(0)


def test_similarities_by_hand() -> None:
    """(3, 4) and (4, 3): cosine 24 / 25, squares 1 + 1, absolute values 1 + 1."""
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    assert similarities(a, b, "cos").item() == pytest.approx(0.96)
    assert similarities(a, b, "l2").item() == -2.0
    assert similarities(a, b, "l1").item() == -2.0


def test_induced_direction_of_a_linear_map_by_hand() -> None:
    """S = -mean (W0 x - Wk x)^2 over 2 entries, so dS/dW = 2 T x x^T / 2 = T x x^T: the way of descent, along T.

    T = [[1, 0], [0, 2]], x = (1, 1): T x = (1, 2), dS/dW = [[1, 1], [2, 2]].
    """
    base, expert = {"w": torch.zeros(2, 2)}, {"w": torch.tensor([[1.0, 0.0], [0.0, 2.0]])}
    found = induced(linear, base, expert, torch.tensor([[1.0, 1.0]]), "l2", ["w"])["w"]
    assert found.tolist() == [[1.0, 1.0], [2.0, 2.0]]


@pytest.mark.parametrize("distance", ["cos", "l2"])
def test_gradient_agrees_with_finite_differences(distance: str) -> None:
    """The gradient of the outer loss with respect to anchors, through the gradient of a block with two maps."""
    torch.manual_seed(0)
    base = {"a": torch.randn(5, 4).double(), "b": torch.randn(3, 5).double()}
    expert = {name: t + 0.1 * torch.randn(t.shape).double() for name, t in base.items()}

    def block(tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return torch.tanh(inputs @ tensors["a"].T) @ tensors["b"].T

    def loss(inputs: Tensor) -> Tensor:
        found = induced(block, base, expert, inputs, distance, ["a", "b"])  # type: ignore[arg-type]
        task = {name: (expert[name] - base[name]).flatten() for name in base}
        cosines = [torch.nn.functional.cosine_similarity(found[n].flatten(), task[n], dim=0) for n in base]
        return (1 - torch.stack(cosines)).sum()

    assert torch.autograd.gradcheck(loss, [torch.randn(3, 4).double().requires_grad_()], eps=1e-6, atol=1e-6)


def test_construction_returns_the_best_iterate_and_never_a_worse_one_with_more_steps() -> None:
    """One step is judged at the start; the loss of a linear map lies in [0, 1] and falls with the number of steps."""
    torch.manual_seed(1)
    base = {"w": torch.randn(4, 6)}
    expert = {"w": base["w"] + 0.1 * torch.randn(4, 6)}
    start = torch.randn(2, 6)
    once = construct(linear, base, expert, start, distance="l2", steps=1)
    assert torch.equal(once.inputs, start)
    assert once.first == once.loss
    losses = [construct(linear, base, expert, start, distance="l2", steps=n).loss for n in (1, 5, 50, 200)]
    assert losses == sorted(losses, reverse=True)
    assert 0 <= losses[-1] < 0.7 * losses[0] <= 0.7
    # The same numbers again, as nothing is drawn.
    assert construct(linear, base, expert, start, distance="l2", steps=50).loss == losses[2]


def test_tensors_that_do_not_change_are_left_out() -> None:
    """Two tensors of which one is the base's: one cosine."""
    base = {"w": torch.eye(2), "still": torch.ones(2)}
    expert = {"w": torch.eye(2) * 1.5, "still": torch.ones(2)}

    def block(tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return inputs @ tensors["w"].T + tensors["still"]

    assert set(construct(block, base, expert, torch.ones(1, 2), steps=1).cosines) == {"w"}
    with pytest.raises(CalibrationError, match="equal to the base"):
        construct(block, base, base, torch.ones(1, 2), steps=1)


def test_a_loss_that_is_not_finite_is_refused() -> None:
    """Anchors of NaN."""
    with pytest.raises(CalibrationError, match="at step 0; take a smaller rate"):
        construct(linear, {"w": torch.eye(2)}, {"w": 2 * torch.eye(2)}, torch.full((1, 2), torch.nan), steps=1)
    nan = torch.full((1, 2), torch.nan)
    with pytest.raises(CalibrationError, match="in epoch 0"):
        adapt(linear, {"w": torch.eye(2)}, [(nan, nan)], ["w"], epochs=1, generator=generator())


def test_weight_rows_take_each_row_once_where_there_are_enough() -> None:
    """6 rows of width 2 in two matrices, (2, 3) of them wanted; the matrix of width 4 is left out."""
    expert = {"a": torch.arange(8.0).reshape(4, 2), "no": torch.zeros(2, 4), "b": torch.arange(8.0, 12.0).reshape(2, 2)}
    pool = {tuple(row) for row in torch.cat([expert["a"], expert["b"]]).tolist()}
    rows = weight_rows(expert, (2, 3, 2), generator()).reshape(-1, 2).tolist()
    assert {tuple(row) for row in rows} == pool
    assert len(rows) == 6


def test_weight_rows_are_first_raw_then_means_where_there_are_too_few() -> None:
    """2 rows for 2 anchors of 2 tokens: the first tokens hold the pool in order, the second ones means of two rows."""
    expert = {"a": torch.tensor([[0.0, 0.0], [4.0, 8.0]])}
    found = weight_rows(expert, (2, 2, 2), generator())
    assert found[:, 0].tolist() == [[0.0, 0.0], [4.0, 8.0]]
    assert all(row in ([0.0, 0.0], [2.0, 4.0], [4.0, 8.0]) for row in found[:, 1].tolist())
    with pytest.raises(CalibrationError, match="over 3 channels"):
        weight_rows(expert, (2, 3), generator())


def test_noise_has_the_scale_that_was_asked_for() -> None:
    """The standard deviation of 100,000 numbers is within 2 % of sigma; the same stream gives the same noise."""
    found = noise((100, 1000), 0.01, generator())
    assert float(found.std()) == pytest.approx(0.01, rel=0.02)
    assert torch.equal(found, noise((100, 1000), 0.01, generator()))


def test_one_step_of_adaptation_by_hand() -> None:
    """Adam's first step is `rate` against the sign: W = 0, x = 1, y = 3, (W x - y)^2 falls with W, so W becomes 0.1.

    With a coefficient a = 1 on the difference 2, W = 2 a: it becomes a = 1.1, so W = 2.2.
    """
    base, pairs = {"w": torch.zeros(1, 1)}, [(torch.ones(1, 1), torch.full((1, 1), 3.0))]
    one = adapt(linear, base, pairs, ["w"], distance="l2", epochs=1, rate=0.1, generator=generator())
    assert one["w"].item() == pytest.approx(0.1, rel=1e-5)
    groups = [Group({"w": torch.full((1, 1), 2.0)}, 1.0)]
    two = adapt(linear, base, pairs, ["w"], groups=groups, distance="l2", epochs=1, rate=0.1, generator=generator())
    assert two["w"].item() == pytest.approx(2.2, rel=1e-5)


def test_adaptation_fits_the_experts_and_shuffles_by_its_stream() -> None:
    """Batches of 3 of 8 anchors: the same stream gives the same weights, which come near the expert's."""
    torch.manual_seed(2)
    expert = torch.randn(3, 4)
    inputs = torch.randn(8, 4)
    base = {"w": torch.zeros(3, 4)}

    def fit(epochs: int) -> Tensor:
        pairs = [(inputs, inputs @ expert.T)]
        return adapt(
            linear, base, pairs, ["w"], distance="l2", epochs=epochs, rate=0.05, batch=3, generator=generator()
        )["w"]

    assert torch.equal(fit(3), fit(3))
    assert float((fit(200) - expert).norm()) < 0.05 * float(expert.norm())


def test_attention_has_a_second_derivative_within_the_context() -> None:
    """Without the context torch's kernel for the CPU has none."""
    query = torch.randn(1, 2, 3, 4, requires_grad=True)
    with twice_differentiable():
        out = torch.nn.functional.scaled_dot_product_attention(query, query, query)
        (first,) = torch.autograd.grad(out.square().sum(), [query], create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), [query])
    assert bool(second.isfinite().all())
