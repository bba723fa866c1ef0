"""SMILE's layer: by hand, its limits, and its laws."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eutectic.adapters.factors import Factors
from eutectic.routed.smile import Smile, Update


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear map with these values."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, dtype=weight.dtype)
    made.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return made.requires_grad_(False)


def drawn(experts: int = 3, rank: int = 2, seed: int = 0) -> tuple[nn.Linear, list[Update], Tensor]:
    """A map of 6 inputs and 5 outputs, experts with biases, and inputs (4, 7, 6); float64."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    updates = [Update(Factors(normal(5, rank), normal(rank, 6), 0.5), normal(5)) for _ in range(experts)]
    return linear(normal(5, 6), normal(5)), updates, normal(4, 7, 6)


def layer(base: nn.Linear, updates: list[Update], rank: int | None = None, gate: int = 16, top: int = 1) -> Smile:
    """The layer with its experts."""
    return Smile(base, updates, rank=rank, gate=gate, top=top, like=base.weight)


def test_by_hand() -> None:
    """Two experts that change what channel 1 and channel 2 do.

    The input (3, 4) has lengths 3 and 4 in their directions, so the second serves alone: its update is 2 times channel
    2 to the first output, and the base passes (3, 4): (3 + 8, 4). Both: softmax(3, 4) = (1, e) / (1 + e), and the first
    adds 5 times channel 1 to the second output: (3 + 8 e / (1 + e), 4 + 15 / (1 + e)).
    """
    base = linear(torch.eye(2))
    first = Update(Factors(torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0, 0.0]])))
    second = Update(Factors(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0, 1.0]]), 2.0))
    x = torch.tensor([[3.0, 4.0]])
    assert layer(base, [first, second]).strengths(x).tolist() == [[3.0, 4.0]]
    assert layer(base, [first, second])(x).tolist() == [[11.0, 4.0]]
    both = [3 + 8 * math.e / (1 + math.e), 4 + 15 / (1 + math.e)]
    torch.testing.assert_close(layer(base, [first, second], top=2)(x), torch.tensor([both]))


def test_ranks_and_gates_take_the_largest_directions() -> None:
    """Of an update diag(3, 1): rank 1 applies the 3 alone, and gate 1 looks at the first channel alone."""
    base = linear(torch.zeros(2, 2))
    update = Update(Factors(torch.eye(2), torch.diag(torch.tensor([1.0, 3.0]))))
    x = torch.tensor([[2.0, 1.0]])
    assert layer(base, [update])(x).tolist() == [[2.0, 3.0]]
    torch.testing.assert_close(layer(base, [update], rank=1)(x), torch.tensor([[0.0, 3.0]]))
    torch.testing.assert_close(layer(base, [update], gate=1).strengths(x), torch.tensor([[1.0]]))


@pytest.mark.parametrize("top", [1, 2, 3])
def test_equal_experts_are_the_expert(top: int) -> None:
    """One expert serves alone; among equal ones it does not matter who serves."""
    base, (update, *_), x = drawn()
    assert update.factors is not None
    assert update.shift is not None
    expected = x @ (base.weight + update.factors.dense()).T + base.bias + update.shift
    torch.testing.assert_close(layer(base, [update])(x), expected)
    torch.testing.assert_close(layer(base, [update] * 3, top=top)(x), expected)


@pytest.mark.parametrize("top", [1, 2, 3])
def test_laws(top: int) -> None:
    """The order of experts, the batch, and how factors share an update change nothing; weights are those of `top`."""
    base, updates, x = drawn()
    made = layer(base, updates, top=top)
    weights = made.weights(x)
    assert bool(((weights > 0).sum(-1) == top).all())
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 7, dtype=torch.float64))
    torch.testing.assert_close(layer(base, updates[::-1], top=top)(x), made(x))
    torch.testing.assert_close(made(x[1, 2:5]), made(x)[1, 2:5])
    mix = torch.tensor([[2.0, 1.0], [0.5, -1.0]], dtype=torch.float64)
    parts = [each.factors for each in updates if each.factors is not None]
    gauged = [Factors(each.b @ mix, torch.linalg.inv(mix) @ each.a, each.scale) for each in parts]
    other = [Update(factors, each.shift) for factors, each in zip(gauged, updates, strict=True)]
    torch.testing.assert_close(layer(base, other, top=top)(x), made(x))


def test_experts_that_leave_the_map_alone() -> None:
    """They have no directions, so inputs go elsewhere; where they serve all the same, the base does."""
    base, (update, *_), x = drawn()
    idle = Update(shift=torch.ones(5, dtype=torch.float64))
    made = layer(base, [idle, update])
    assert bool((made.weights(x)[..., 1] == 1).all())
    torch.testing.assert_close(made(x), layer(base, [update])(x))
    null = Update(Factors(torch.zeros(5, 2, dtype=torch.float64), torch.zeros(2, 6, dtype=torch.float64)))
    torch.testing.assert_close(layer(base, [null, update])(x), layer(base, [update])(x))
    torch.testing.assert_close(layer(base, [null])(x), base(x))


def test_it_follows_its_model() -> None:
    """To another type with the base; and what is stored is the base's alone, so that it is made of adapters again."""
    base, updates, x = drawn()
    made = layer(base, updates).to(torch.bfloat16)
    assert made(x.bfloat16()).dtype == torch.bfloat16
    assert made.strengths(x.bfloat16()).dtype == torch.float32
    assert set(made.state_dict()) == {"linear.weight", "linear.bias"}


@pytest.mark.parametrize("numbers", [{"gate": 0}, {"top": 0}, {"top": 4}, {"rank": 0}])
def test_numbers_out_of_bounds(numbers: dict[str, Any]) -> None:
    """What cannot be is refused."""
    base, updates, _ = drawn()
    with pytest.raises(ValueError, match="expected rank and gate"):
        layer(base, updates, **numbers)


def test_no_expert() -> None:
    """At least one must change the weight."""
    base, *_ = drawn()
    with pytest.raises(ValueError, match="found none"):
        layer(base, [Update(shift=torch.ones(5))])
