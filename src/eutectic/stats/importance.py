"""How far a model's rows diverge from the base's, and which of its elements stand out by importance.

The first is shown whole rows, so that a row is summed at once and in one order, however a tensor is cut.
"""

from dataclasses import dataclass, replace

import numpy as np

from eutectic.numerics import kernels
from eutectic.numerics.kernels import BINS
from eutectic.numerics.stages import Floats, RowScale, apply
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Again, OfWeights, Part, Seen, Statistic
from eutectic.stats.window import Window, count, look, open_window, sampled_sweeps

#: The shares of a tensor's elements that lie below its quartiles.
_QUARTILES = (0.25, 0.5, 0.75)
#: Quartiles lie where elements are many: a sample must be larger to tell which of them.
_ENOUGH = 1 << 19


@dataclass(frozen=True)
class RowDivergence(OfWeights):
    """The Kullback-Leibler divergence of each of one model's rows from the base's, as distributions: (rows,) float64.

    A row becomes a distribution by its softmax, and `eps` is added to every probability.
    """

    eps: float = 1e-8

    @property
    def whole_rows(self) -> bool:
        return True

    def init(self, parts: list[Part], n: int, double: bool) -> Floats:
        return np.zeros(sum(part.rows for part in parts))

    def update(self, state: Floats, seen: Seen) -> None:
        first = seen.start // seen.width
        if seen.rows is not None:
            found = kernels.divergence(seen.rows, seen.width, self.eps)
            state[first : first + len(found)] = found
            return
        rows = seen.tensors
        if len(rows) < 2:
            rows = torch.cat([rows - seen.deltas, rows])  # raises: there is no base
        base, model = (each.reshape(-1, seen.width).double() for each in rows)
        state[first : first + len(base)] = divergence(model, base, self.eps).numpy(force=True)

    def combine(self, left: Floats, right: Floats) -> Floats:
        left += right  # a row is in one of them, and 0 in the other
        return left

    def finish(self, state: Floats) -> Floats:
        return state

    def nbytes(self, parts: list[Part], n: int) -> int:
        return 8 * sum(part.rows for part in parts)


def divergence(model: Tensor, base: Tensor, eps: float) -> Tensor:
    """Returns the divergence of rows from rows: (rows, width), (rows, width) -> (rows,), float64, from 0 up."""
    p, q = (torch.softmax(each, -1) + eps for each in (model, base))
    return (p * (p / q).log()).sum(-1).clamp(min=0)


@dataclass(frozen=True)
class ImportanceFence(OfWeights):
    """What importance stands out in a tensor: median + `spread` * (third - first quartile), a number.

    An element's importance is its magnitude times its row's divergence. A quartile is the element at index
    int(share * (numel - 1)) of all in order, found exactly by counting bit patterns as `MagnitudeQuantile` does.
    """

    rows: RowDivergence
    spread: float = 1.5

    @property
    def after(self) -> tuple[Statistic, ...]:
        return (self.rows,)

    def init(self, parts: list[Part], n: int, double: bool) -> Window:
        return open_window(sum(part.numel for part in parts), len(_QUARTILES), double, _ENOUGH)

    def sample(self, state: Window) -> int:
        return state.sampling

    def update(self, state: Window, seen: Seen) -> None:
        weigh = RowScale(seen.results[self.rows], seen.width)
        n = _windows(state)
        if seen.rows is not None:
            shown = seen.rows.then(weigh)
            offsets, codes = (np.array([*each[:-1], *[each[-1]] * n]) for each in (shown.offsets, shown.codes))
            shown = replace(shown, offsets=offsets, codes=codes, is_delta=np.repeat(shown.is_delta, n))
            kernels.magnitudes(shown, state.low[:n], state.shift[:n], state.below, state.bins)
        else:
            values = apply(weigh, seen.deltas, seen.key)[0]
            for at in range(n):
                count(values, state, at)

    def combine(self, left: Window, right: Window) -> Window:
        left.below += right.below
        left.bins += right.bins
        return left

    def finish(self, state: Window) -> float | Again:
        if not state.total:
            return 0.0
        shared = _windows(state) == 1
        ranks = [int(share * (state.total - 1)) + 1 for share in _QUARTILES]
        looked = [look(state, 0 if shared else at, rank) for at, rank in enumerate(ranks)]
        found = [pattern for pattern, _ in looked if pattern is not None]
        if state.sampling > 1 or len(found) < len(looked):
            return Again(state.narrowed([window for _, window in looked]))
        first, median, third = state.values(found)
        return median + self.spread * (third - first)

    def sweeps(self, total: int, double: bool) -> float:
        return sampled_sweeps(total, double, _ENOUGH)

    def nbytes(self, parts: list[Part], n: int) -> int:
        return len(_QUARTILES) * BINS * 8


def _windows(state: Window) -> int:
    """How many windows are counted: where all quartiles still have the same, that one stands for all."""
    return 1 if len(set(zip(state.low.tolist(), state.shift.tolist(), strict=True))) == 1 else len(_QUARTILES)
