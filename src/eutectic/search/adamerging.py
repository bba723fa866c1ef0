"""AdaMerging: coefficients of task vectors, moved by gradient descent towards surer predictions.

Source: Yang et al., AdaMerging: Adaptive Model Merging for Multi-Task Learning, ICLR 2024, arXiv:2310.02575, section
3.2, equations 5 to 7, and the authors' code: coefficients start at 0.3, are used as clamp(raw, 0, 1), whose derivative
is 0 outside, and follow Adam at a rate of 0.001 for 500 steps. Task-wise, a group is the model; layer-wise, a tensor.
Departs: the stream is data of its own unless test inputs are asked for; the authors learn on those.
"""

from collections.abc import Callable
from dataclasses import dataclass

from eutectic.numerics.adam import Adam
from eutectic.numerics.tensors import Tensor, torch

#: Takes coefficients (groups, n) as they are used, and the step from 1; returns the loss, and its gradient.
Descend = Callable[[Tensor, int], tuple[float, Tensor]]


@dataclass(frozen=True)
class Learnt:
    """Where learning is.

    Attributes:
        raw: the coefficients before they are clamped, (groups, n) float32.
        mean, square: Adam's moments.
        losses: before each step so far.
    """

    raw: Tensor
    mean: Tensor
    square: Tensor
    losses: tuple[float, ...]

    @classmethod
    def start(cls, values: Tensor) -> "Learnt":
        """Returns the state before the first step."""
        raw = values.float()
        return cls(raw, torch.zeros_like(raw), torch.zeros_like(raw), ())


def used(raw: Tensor, clamp: bool) -> Tensor:
    """Returns the coefficients that merge."""
    return raw.clamp(0, 1) if clamp else raw.clone()


def adamerging(
    state: Learnt,
    descend: Descend,
    *,
    steps: int,
    rate: float = 1e-3,
    clamp: bool = True,
    hear: Callable[[Learnt], None] = lambda _: None,
) -> Learnt:
    """Goes on from a state until `steps` steps have been made.

    Args:
        state: where to start.
        descend: the loss and its gradient.
        steps: in all, those of `state` counted.
        rate: of Adam.
        clamp: use coefficients cut to 0 to 1; one that has left this stays where momentum carries it.
        hear: called with the state after every step.
    """
    adam = Adam(state.raw.clone(), rate)
    adam.resume(state.mean.clone(), state.square.clone(), len(state.losses))
    losses = list(state.losses)
    for step in range(len(losses) + 1, steps + 1):
        loss, gradient = descend(used(adam.values, clamp), step)
        if clamp:
            gradient = gradient.where((adam.values >= 0) & (adam.values <= 1), 0.0)
        adam.step(gradient.to(adam.values))
        losses.append(float(torch.tensor(loss)))  # in float32, as it is stored
        mean, square, _ = adam.moments
        state = Learnt(adam.values.clone(), mean.clone(), square.clone(), tuple(losses))
        hear(state)
    return state
