"""How far a model's rows diverge from the base's, and which of its elements stand out by importance.

Both are shown whole rows, so that a row is summed at once and in one order, however a tensor is cut.
"""

from dataclasses import dataclass

import numpy as np

from eutectic.numerics import kernels
from eutectic.numerics.draw import Key
from eutectic.numerics.kernels import BINS, CODES, Rows
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Again, Part, Seen, Statistic
from eutectic.stats.weights import Floats, OfWeights, Window, look, open_window

#: The shares of a tensor's elements that lie below its quartiles.
_QUARTILES = (0.25, 0.5, 0.75)


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
        rows = seen.tensors
        if len(rows) < 2:
            rows = torch.cat([rows - seen.deltas, rows])  # raises: there is no base
        base, model = (each.reshape(-1, seen.width).double() for each in rows)
        first = seen.start // seen.width
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


def importance(deltas: Tensor, rows: Floats) -> Tensor:
    """Returns |delta| times its row's divergence: (rows, width) -> (rows, width)."""
    return deltas.abs() * torch.from_numpy(rows).to(deltas)[:, None]


@dataclass(frozen=True)
class ImportanceFence(OfWeights):
    """What importance stands out in a tensor: median + `spread` * (third - first quartile), a number.

    A quartile is the element at index int(share * (numel - 1)) of all in order, found exactly by counting bit patterns
    as `MagnitudeQuantile` does, in two counts.
    """

    rows: RowDivergence
    spread: float = 1.5

    @property
    def whole_rows(self) -> bool:
        return True

    @property
    def after(self) -> tuple[Statistic, ...]:
        return (self.rows,)

    def init(self, parts: list[Part], n: int, double: bool) -> Window:
        return open_window(sum(part.numel for part in parts), len(_QUARTILES), double)

    def update(self, state: Window, seen: Seen) -> None:
        first = seen.start // seen.width
        deltas = seen.deltas.reshape(-1, seen.width)
        values = importance(deltas, seen.results[self.rows][first : first + len(deltas)])
        flat = values.reshape(-1).numpy(force=True)
        same = len(set(state.low.tolist())) == 1 and len(set(state.shift.tolist())) == 1
        n = 1 if same else len(_QUARTILES)  # the first count is one for all
        code = CODES["F64" if state.double else "F32"]
        shown = Rows(
            flat.view(np.uint8),
            np.zeros(n, np.int64),
            np.full(n, code),
            np.ones(n, np.bool_),
            False,
            0,
            len(flat),
            Key(0, ""),
            state.double,
        )
        below, bins = np.zeros(n, np.int64), np.zeros((n, BINS), np.int64)
        kernels.magnitudes(shown, state.low[:n], state.shift[:n], below, bins)
        state.below += below
        state.bins += bins

    def combine(self, left: Window, right: Window) -> Window:
        left.below += right.below
        left.bins += right.bins
        return left

    def finish(self, state: Window) -> float | Again:
        if not state.total:
            return 0.0
        looked = [look(state, at, int(share * (state.total - 1)) + 1) for at, share in enumerate(_QUARTILES)]
        patterns = [pattern for pattern, _ in looked]
        if None in patterns:
            return Again(state.narrowed([window for _, window in looked]))
        first, median, third = state.values([pattern or 0 for pattern in patterns])
        return median + self.spread * (third - first)

    def sweeps(self, total: int, double: bool) -> float:
        return 4.0 if double else 2.0

    def nbytes(self, parts: list[Part], n: int) -> int:
        return 2 * len(_QUARTILES) * BINS * 8
