"""Statistics of PCB-Merging: how an element of one model competes with its others, and with the other models' ones."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eutectic.numerics.kernels import BINS
from eutectic.numerics.stages import Floats, column
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Again, Part, Seen, Statistic
from eutectic.stats.quantiles import Quantiles
from eutectic.stats.window import Window, magnitudes_of, narrow, open_window, size_of, tally

Inter = Literal["pairs", "shares", "sum"]


@dataclass(frozen=True)
class MagnitudeEdges(Quantiles):
    """The magnitudes to which each model's deltas are clipped: (2, n), lows and highs, `share` of all beyond each.

    Of d magnitudes in order, counted from 0, they are number int(d * share) and number int(d * (1 - share) - 1).
    """

    share: float = 0.01

    def init(self, parts: list[Part], n: int, double: bool) -> Window:
        return open_window(size_of(parts), 2 * n, double)

    def finish(self, state: Window) -> Floats | Again:
        n, total = len(state.below) // 2, state.total
        ranks = [min(int(total * self.share) + 1, total), int(total * (1 - self.share) - 1) + 1]
        found = narrow(state, [rank for rank in ranks for _ in range(n)])
        return found if isinstance(found, Again) else magnitudes_of(found, state.double).reshape(2, n)

    def nbytes(self, parts: list[Part], n: int) -> int:
        return 2 * n * BINS * 8


@dataclass(frozen=True)
class ScoreEdges(Quantiles):
    """The scores between which each model's elements gain weight: (2, n), the cut of the best `ratio` and the best.

    Of d scores in order, counted from 0, they are number int(d * (1 - ratio)) and the last.
    """

    edges: MagnitudeEdges
    inter: Inter = "pairs"
    ratio: float = 0.05

    @property
    def after(self) -> tuple[Statistic, ...]:
        return (self.edges,)

    def init(self, parts: list[Part], n: int, double: bool) -> Window:
        return open_window(size_of(parts), 2 * n, double, top=0xFFFFFFFFFFFFFFFF if double else 0xFFFFFFFF)

    def update(self, state: Window, seen: Seen) -> None:
        tally(state, _ordered(scores(seen.deltas, seen.results[self.edges], self.inter)))

    def finish(self, state: Window) -> Floats | Again:
        n, total = len(state.below) // 2, state.total
        ranks = [min(int(total * (1 - self.ratio)) + 1, total), total]
        found = narrow(state, [rank for rank in ranks for _ in range(n)])
        return found if isinstance(found, Again) else _unordered(found, state.double).reshape(2, n)

    def nbytes(self, parts: list[Part], n: int) -> int:
        return 2 * n * BINS * 8


def clipped(deltas: Tensor, edges: Floats) -> tuple[Tensor, Tensor]:
    """Returns magnitudes clipped to each model's edges, and where between them, in [0, 1]: both (n, *shape)."""
    low, high = (column(tuple(row), deltas) for row in edges.tolist())
    size = deltas.abs().clamp(low, high)
    room = high - low
    return size, ((size - low) / room).where(room > 0, 0.0)


def scores(deltas: Tensor, edges: Floats, inter: Inter) -> Tensor:
    """Returns how much each element counts: (n, *shape) -> (n, *shape).

    exp(n share^2) for its size among its model's own, times how far it goes with the other models: the sum over all
    models j of tanh(s_i s_j), s being the signed share (`pairs`), or tanh(delta_i t), t being the sum of all signed
    shares (`shares`) or of all deltas (`sum`).
    """
    n = len(deltas)
    share = clipped(deltas, edges)[1]
    signed = deltas.sign() * share
    if inter == "pairs":
        together = torch.tanh(signed * signed[0])
        for row in signed[1:]:
            together = together + torch.tanh(signed * row)
    else:
        rows = deltas if inter == "sum" else signed
        total = rows[0]
        for row in rows[1:]:
            total = total + row
        together = torch.tanh(deltas * total)
    return torch.exp(n * share.square()) * together


def _ordered(values: Tensor) -> NDArray[np.uint64]:
    """Returns patterns whose order is that of the numbers, negative ones among them."""
    plain = values.numpy(force=True)
    bits: NDArray[Any] = plain.view(np.uint64 if plain.itemsize == 8 else np.uint32)
    top = bits.dtype.type(1 << (8 * plain.itemsize - 1))
    return np.where(bits & top, ~bits, bits | top).astype(np.uint64)


def _unordered(patterns: list[int], double: bool) -> Floats:
    """Returns the numbers with these patterns."""
    size = 64 if double else 32
    top, every = 1 << (size - 1), (1 << size) - 1
    return magnitudes_of([p & ~top if p & top else every & ~p for p in patterns], double)
