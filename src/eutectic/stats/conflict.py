"""How much the tasks are in each other's way, element by element, and its quantile over a whole model."""

import math
from dataclasses import dataclass

from eutectic.numerics.kernels import BINS
from eutectic.numerics.tensors import Tensor
from eutectic.stats.fold import Again, Calibrated, OfWeights, Part, Seen
from eutectic.stats.window import Window, count, look, open_window, sampled_sweeps


def conflict(sensitivity: Tensor, movement: Tensor) -> Tensor:
    """Returns the root of the sum over ordered pairs i != j of |s_j| |m_i|: twice (n, *shape) -> (*shape).

    `sensitivity` says how much each task minds that an element moves, `movement` how far each task moves it. Made as
    sum |s| sum |m| - sum |s m| in float64, none negative, and rounded once to the precision of `movement`, which the
    root's range fits.
    """
    minded, moved = sensitivity[0].abs().double(), movement[0].abs().double()
    own = minded * moved
    for s, m in zip(sensitivity[1:], movement[1:], strict=True):
        minds, moves = s.abs().double(), m.abs().double()
        minded, moved = minded.add_(minds), moved.add_(moves)
        own += minds.mul_(moves)
    return minded.mul_(moved).sub_(own).clamp_min_(0.0).sqrt_().to(movement)


@dataclass(frozen=True)
class ConflictQuantile(OfWeights):
    """The conflict that comes at rank int((1 - share) * elements), counted from 0, over a scope: one number.

    Found exactly by counting bit patterns, as `MagnitudeQuantile` does, without holding a conflict. It reads deltas
    through torch, so the methods that ask for it have no fused form.

    Attributes:
        share: of the elements that lie at the quantile or above.
        sensitivity: the calibrated statistic that is one side of `conflict`; the deltas if None.
        movement: the same for the other side.
    """

    share: float = 0.01
    sensitivity: Calibrated | None = None
    movement: Calibrated | None = None

    def sample(self, state: Window) -> int:
        return state.sampling

    def sweeps(self, total: int, double: bool) -> float:
        return sampled_sweeps(total, double)

    def init(self, parts: list[Part], n: int, double: bool) -> Window:
        return open_window(sum(part.numel for part in parts), 1, double)

    def update(self, state: Window, seen: Seen) -> None:
        sides = (seen.deltas if side is None else seen.measured(side) for side in (self.sensitivity, self.movement))
        count(conflict(*sides), state, 0)

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
