"""Functional dual anchors of one block: inputs whose gradient points along a task vector, and solving from them.

Source: Model Merging with Functional Dual Anchors, arXiv:2510.21223, equations 1 to 6.

Departs: anchors follow the direction of descent, as the published code does; equation 1 read literally aligns the
opposite one, whose loss cannot reach 0. Blocks always run without dropout.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from eutectic.errors import CalibrationError
from eutectic.numerics.tensors import Tensor, torch

Named = Mapping[str, Tensor]
#: A block as a function: its tensors by name, and inputs (n, ...), to outputs (n, ...).
Block = Callable[[Named, Tensor], Tensor]
Distance = Literal["cos", "l2", "l1"]
#: What norms are floored at in a cosine, as torch does.
_EPS = 1e-8


@dataclass(frozen=True)
class Anchors:
    """The anchors of a block for one expert.

    Attributes:
        inputs: the best that were met, (n, ...).
        loss: the sum over tensors of 1 - cosine there.
        first: the same at the start.
        cosines: by tensor, at the best.
    """

    inputs: Tensor
    loss: float
    first: float
    cosines: Mapping[str, float]


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Keeps attention to the kernel that has a second derivative meanwhile, in all threads."""
    kernels = torch.nn.attention
    with kernels.sdpa_kernel(kernels.SDPBackend.MATH):
        yield


def similarities(a: Tensor, b: Tensor, distance: Distance) -> Tensor:
    """Returns how alike outputs (n, ...) are, one number an anchor (n,): a cosine, or minus a sum over entries."""
    a, b = a.flatten(1), b.flatten(1)
    if distance == "cos":
        return torch.nn.functional.cosine_similarity(a, b, dim=1, eps=_EPS)
    gap = (a - b).square() if distance == "l2" else (a - b).abs()
    return -gap.sum(1)


def induced(block: Block, base: Named, expert: Named, inputs: Tensor, distance: Distance, over: Sequence[str]) -> Named:
    """Returns the direction in which a step on the inputs moves the base's tensors, with its graph to the inputs.

    That is the gradient of the mean similarity of the outputs of base and expert: per anchor for `cos`, per entry else.
    """
    leaves = {name: base[name].detach().requires_grad_() for name in over}
    ours = block({**base, **leaves}, inputs)
    alike = similarities(ours, block(expert, inputs), distance)
    mean = alike.mean() if distance == "cos" else alike.sum() / ours.numel()
    found = torch.autograd.grad(mean, list(leaves.values()), create_graph=True, materialize_grads=True)
    return dict(zip(over, found, strict=True))


def construct(
    block: Block,
    base: Named,
    expert: Named,
    start: Tensor,
    *,
    distance: Distance = "cos",
    steps: int = 1200,
    rate: float = 0.01,
) -> Anchors:
    """Moves inputs until the direction that they induce at the base points along the task vector.

    The loss is the sum over tensors of 1 - cosine; tensors that the expert does not change are left out. The result is
    the best of the `steps` inputs met, each judged before its step.

    Args:
        block: twice differentiable.
        base, expert: the tensors of the block.
        start: inputs (n, ...).
        distance: between outputs.
        steps: of AdamW, with weight decay 0.01.
        rate: its learning rate.

    Raises:
        CalibrationError: when the expert changes nothing, or the loss is not finite.
    """
    moved = {name: (expert[name] - base[name]) for name in base if base[name].is_floating_point()}
    moved = {name: task for name, task in moved.items() if bool(task.any())}
    if not moved:
        raise CalibrationError("expected an expert that changes the block, found one equal to the base")
    inputs = start.detach().clone().requires_grad_()
    optimiser = torch.optim.AdamW([inputs], lr=rate)
    best, first, kept, at = float("inf"), float("nan"), inputs.detach(), torch.zeros(len(moved))
    for step in range(steps):
        found = induced(block, base, expert, inputs, distance, list(moved))
        cosines = torch.stack([_cosine(found[name], task) for name, task in moved.items()])
        loss = (1 - cosines).sum()
        value = float(loss.detach())
        if not value < float("inf"):
            raise CalibrationError(f"the anchors' loss is {value} at step {step}; take a smaller rate")
        first = value if step == 0 else first
        if value < best:
            best, kept, at = value, inputs.detach().clone(), cosines.detach()
        (inputs.grad,) = torch.autograd.grad(loss, [inputs])
        optimiser.step()
    return Anchors(kept, best, first, dict(zip(moved, at.tolist(), strict=True)))


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0, eps=_EPS)


def noise(shape: Sequence[int], sigma: float, generator: "torch.Generator") -> Tensor:
    """Returns scaled Gaussian noise to start from."""
    return sigma * torch.randn(tuple(shape), generator=generator)


def weight_rows(expert: Named, shape: Sequence[int], generator: "torch.Generator") -> Tensor:
    """Returns rows of the expert's matrices to start from, (n, ..., d).

    The pool is every matrix of width d, in the order of the tensors. From a pool that is large enough rows are drawn
    without replacement; else each is taken once, in order, and the rest are means of two drawn rows. Rows fill the
    first token of all anchors, then the second, and so on.

    Raises:
        CalibrationError: when no matrix has width d.
    """
    n, *middle, width = shape
    matrices = [t for t in expert.values() if t.dim() == 2 and t.shape[1] == width]
    if not matrices:
        raise CalibrationError(f"expected a matrix over {width} channels to start anchors from; take init: gaussian")
    pool = torch.cat(matrices)
    tokens = math.prod(middle)
    wanted = n * tokens
    if len(pool) >= wanted:
        rows = pool[torch.randperm(len(pool), generator=generator)[:wanted]]
    else:
        pairs = torch.randint(len(pool), (2, wanted - len(pool)), generator=generator)
        rows = torch.cat([pool, (pool[pairs[0]] + pool[pairs[1]]) / 2])
    return rows.reshape(tokens, n, width).transpose(0, 1).reshape(tuple(shape)).clone()


@dataclass(frozen=True)
class Group:
    """A difference from the base whose every element is given a coefficient, and what that starts from."""

    difference: Named
    coefficient: float


def adapt(
    block: Block,
    base: Named,
    pairs: Sequence[tuple[Tensor, Tensor]],
    trained: Sequence[str],
    *,
    groups: Sequence[Group] = (),
    distance: Distance = "cos",
    epochs: int = 100,
    rate: float = 1e-5,
    batch: int = 128,
    generator: "torch.Generator",
) -> dict[str, Tensor]:
    """Fits a block to what the experts' blocks answer on their anchors, and returns its trained tensors.

    The loss of a batch is the sum over its anchors of the distance of outputs; Adam takes the steps.

    Args:
        block: differentiable.
        base: its tensors.
        pairs: anchors and the expert's outputs on them, each (n, ...), one pair an expert.
        trained: the tensors that change.
        groups: without any, the tensors themselves are trained, from the base's (equation 5); else coefficients, one
            an element of each group's difference from the base (equation 6).
        distance: between outputs.
        epochs: passes over all anchors.
        rate: the learning rate.
        batch: anchors a step.
        generator: shuffles.

    Raises:
        CalibrationError: when the loss is not finite.
    """
    inputs, targets = (torch.cat(each) for each in zip(*pairs, strict=True))
    if groups:
        learnt = {
            name: [torch.full_like(base[name], group.coefficient).requires_grad_() for group in groups]
            for name in trained
        }
    else:
        learnt = {name: [base[name].detach().clone().requires_grad_()] for name in trained}

    def tensors() -> dict[str, Tensor]:
        if not groups:
            return {name: values[0] for name, values in learnt.items()}
        made = {}
        for name, values in learnt.items():
            made[name] = base[name]
            for value, group in zip(values, groups, strict=True):
                made[name] = made[name] + value * group.difference[name]
        return made

    optimiser = torch.optim.Adam([value for values in learnt.values() for value in values], lr=rate)
    for epoch in range(epochs):
        order = torch.randperm(len(inputs), generator=generator) if batch < len(inputs) else torch.arange(len(inputs))
        for chosen in torch.split(order, batch):
            outputs = block({**base, **tensors()}, inputs[chosen])
            loss = -similarities(outputs, targets[chosen], distance).sum()
            if not bool(loss.isfinite()):
                raise CalibrationError(
                    f"the loss of adaptation is {float(loss.detach())} in epoch {epoch}; take a smaller rate"
                )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return {name: tensor.detach() for name, tensor in tensors().items()}
