"""Merged weights as a function of coefficients: base + sum of coefficients times deltas, and the way back.

The derivative of a loss to a coefficient is the inner product of its gradient at the merged tensor with a delta. So
deltas are needed twice a step, one slice at a time: they are read again, or kept where there is room.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from eutectic.engine.chain import Room
from eutectic.engine.execute import pieces
from eutectic.engine.staged import Staged
from eutectic.numerics.kernels import GRAIN
from eutectic.numerics.tensors import Tensor, torch

#: Hears a tensor's name, a slice's first element, the base's elements, and the models' deltas (n, elements).
Look = Callable[[str, int, Tensor, Tensor], None]


class Weighted:
    """Task vectors of a plan's tensors, as its transforms leave them.

    Args:
        staged: the plan's output.
        scale: of each tensor that is weighted, what multiplies its weighted sum.
        keep: the tensors whose base and deltas are kept in memory once they have been read.
    """

    def __init__(self, staged: Staged, scale: Mapping[str, float], keep: Iterable[str] = ()) -> None:
        self._staged, self._scale, self._keep = staged, scale, frozenset(keep)
        self._kept: dict[str, list[tuple[int, Tensor, Tensor]]] = {}

    def merge(self, weights: Mapping[str, Sequence[float]], out: Mapping[str, Tensor]) -> None:
        """Fills `out` with every tensor's base + scale * sum of weights[i] * delta i, added in model order."""
        room = Room()

        def look(name: str, start: int, base: Tensor, deltas: Tensor) -> None:
            first, *others = weights[name]
            total = room.take(1, len(base), base)[0]
            torch.mul(deltas[0], first, out=total)
            for weight, delta in zip(others, deltas[1:], strict=True):
                total.add_(delta, alpha=weight)
            out[name].reshape(-1)[start : start + len(base)] = total.mul_(self._scale[name]).add_(base)

        self._show(look)

    def inner(self, gradients: Mapping[str, Tensor]) -> dict[str, list[float]]:
        """Returns, for each tensor that has a gradient, the derivatives to its weights, one a model.

        Products are summed by grain, and grains in float64.
        """
        room = Room()
        parts: dict[str, list[Tensor]] = {name: [] for name in gradients}

        def look(name: str, start: int, base: Tensor, deltas: Tensor) -> None:
            if name not in gradients:
                return
            gradient = gradients[name].reshape(-1)[start : start + len(base)].to(deltas.dtype)
            for first, last in pieces(start + len(base), GRAIN, start):
                own = slice(first - start, last - start)
                products = room.take(len(deltas), last - first, deltas)
                torch.mul(deltas[:, own], gradient[own], out=products)
                parts[name].append(products.sum(1).double())

        self._show(look)
        found = {}
        for name, sums in parts.items():
            columns = zip(*(each.tolist() for each in sums), strict=True)
            found[name] = [self._scale[name] * math.fsum(column) for column in columns]
        return found

    def _show(self, look: Look) -> None:
        """Shows every slice, kept ones first."""

        def read(name: str, start: int, base: Tensor, deltas: Tensor) -> None:
            if name in self._keep:
                self._kept.setdefault(name, []).append((start, base.clone(), deltas.clone()))
            look(name, start, base, deltas)

        away = [name for name in self._scale if name not in self._kept]
        for name, slices in self._kept.items():
            for start, base, deltas in slices:
                look(name, start, base, deltas)
        self._staged.show(away, read)
