"""How much the tasks are in each other's way, element by element, and its quantile over a whole model."""

import math
from dataclasses import dataclass

from eutectic.numerics.kernels import BINS
from eutectic.numerics.tensors import Tensor
from eutectic.stats.fold import Again, Part, Seen
from eutectic.stats.weights import OfWeights, Window, count, look, open_window, sampled_sweeps


def conflict(deltas: Tensor) -> Tensor:
    """Returns the root of the sum over ordered pairs of tasks of |T_i| |T_j|: (n, *shape) -> (*shape), none negative.

    Made as (sum |T|)^2 - sum T^2 in float64, and rounded once to the deltas' precision, which the root's range fits.
    """
    total, squares = deltas[0].abs().double(), deltas[0].double().square()
    for delta in deltas[1:]:
        wide = delta.abs().double()
        total += wide
        squares += wide.square_()
    return total.square_().sub_(squares).clamp_min_(0.0).sqrt_().to(deltas)


@dataclass(frozen=True)
class ConflictQuantile(OfWeights):
    """The conflict that comes at rank int((1 - share) * elements), counted from 0, over a scope: one number.

    Found exactly by counting bit patterns, as `MagnitudeQuantile` does, without holding a conflict. It reads deltas
    through torch, so the methods that ask for it have no fused form.
    """

    share: float = 0.01

    def sample(self, state: Window) -> int:
        return state.sampling

    def sweeps(self, total: int, double: bool) -> float:
        return sampled_sweeps(total, double)

    def init(self, parts: list[Part], n: int, double: bool) -> Window:
        return open_window(sum(part.numel for part in parts), 1, double)

    def update(self, state: Window, seen: Seen) -> None:
        count(conflict(seen.deltas), state, 0)

    def combine(self, left: Window, right: Window) -> Window:
        left.below += right.below
        left.bins += right.bins
        return left

    def finish(self, state: Window) -> float | Again:
        if not state.total:
            return math.inf
        rank = min(int(state.total * round(1 - self.share, 15)), state.total - 1)
        pattern, window = look(state, 0, rank + 1)
        if state.sampling > 1 or pattern is None:
            return Again(state.narrowed([window]))
        return state.values([pattern])[0]

    def nbytes(self, parts: list[Part], n: int) -> int:
        return BINS * 8
