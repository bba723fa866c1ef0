import threading

import pytest
import torch
from torch import Tensor, nn

from eutectic.calibrate.lockstep import Call, Lockstep


class Model(nn.Module):
    """Three blocks with something of the model's own between them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """Blocks, each after a scaling."""
        for block in self.blocks:
            x = block(x * scale)
        return x


def visits(model: Model, batches: list[Tensor]) -> tuple[list[tuple[str, list[int]]], list[Tensor]]:
    """Runs batches in lockstep; returns what was visited in which order, and the outputs."""
    blocks = {f"b{at}": block for at, block in enumerate(model.blocks)}
    lockstep = Lockstep(blocks)
    seen: list[tuple[str, list[int]]] = []
    outputs: dict[int, Tensor] = {}

    def visit(name: str, calls: list[Call]) -> None:
        seen.append((name, [call.batch for call in calls]))
        for call in calls:
            lockstep.answer(call, blocks[name](*call.args, **call.kwargs))

    def forward(at: int) -> None:
        outputs[at] = model(batches[at], scale=float(at + 1))

    lockstep.run([lambda at=at: forward(at) for at in range(len(batches))], visit)  # type: ignore[misc]
    return seen, [outputs[at] for at in range(len(batches))]


def test_every_block_is_visited_once_with_all_batches() -> None:
    """And the outputs are those of the model by itself, to the last bit."""
    model, batches = Model(), [torch.randn(3, 2) for _ in range(4)]
    before = threading.active_count()
    seen, outputs = visits(model, batches)
    assert seen == [(f"b{at}", [0, 1, 2, 3]) for at in range(3)]
    with torch.no_grad():
        assert all(torch.equal(model(x, scale=k + 1.0), outputs[k]) for k, x in enumerate(batches))
    assert threading.active_count() == before


def test_an_error_ends_all_threads() -> None:
    """Of the model's own forward, or of a visit; blocks get their forward back."""
    model = Model()
    before = threading.active_count()
    with pytest.raises(TypeError):
        visits(model, [torch.randn(3, 2), "no tensor"])  # type: ignore[list-item]
    lockstep = Lockstep({"b0": model.blocks[0]})

    def visit(name: str, calls: list[Call]) -> None:
        raise KeyError(name)

    with pytest.raises(KeyError):
        lockstep.run([lambda: model(torch.randn(3, 2))] * 3, visit)
    assert threading.active_count() == before
    assert "gated" not in repr(model.blocks[0].forward)


def test_no_blocks_is_a_plain_run() -> None:
    """Then every forward simply runs, in order."""
    order: list[int] = []
    Lockstep({}).run([lambda at=at: order.append(at) for at in range(3)], lambda name, calls: None)  # type: ignore[misc]
    assert order == [0, 1, 2]
