"""Sums over the weights themselves: Gram matrices, energies, masses, votes and overlaps.

Sums are kept per grain (see `numerics.kernels.GRAIN`) in float64 and added in index order at the end, so that slices,
threads and resuming cannot change a bit. Counts are integers and need no such care.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eutectic.numerics import kernels
from eutectic.numerics.kernels import GRAIN
from eutectic.numerics.stages import Floats, Numbers, Ranked, Scale, Select, Stage, Trim, apply, at_step
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import OfWeights, Part, Seen, Statistic
from eutectic.stats.quantiles import MagnitudeBand, MagnitudeQuantile, SpreadQuantile, band_of

Sums = dict[str, Floats]


def _grains(part: Part) -> int:
    return -(-part.numel // GRAIN)


def _total(state: Sums) -> Floats:
    """Adds all grains of all tensors, in name order and index order, with one rounding per number."""
    blocks = np.concatenate([state[name] for name in sorted(state)])
    flat = blocks.reshape(len(blocks), math.prod(blocks.shape[1:]))  # -1 is undefined when there are no grains
    exact = [math.fsum(column) if np.isfinite(column).all() else float(column.sum()) for column in flat.T]
    return np.array(exact).reshape(blocks.shape[1:])


def _per_grain(rows: Tensor, measure: Callable[[Tensor], Tensor]) -> Floats:
    """The torch reference of a sum per grain: `measure` of each stretch of GRAIN elements, stacked."""
    return torch.stack([measure(part.double()) for part in torch.split(rows, GRAIN, dim=1)]).numpy(force=True)


@dataclass(frozen=True)
class Gram(OfWeights):
    """Inner products of all pairs over a scope: (p, p) float64.

    `of="deltas"`: the n models' differences from the base, p = n. `of="weights"`: the base, if there is one, and the
    models themselves, p = n + 1 or n.
    """

    of_: Literal["deltas", "weights"] = "deltas"

    def init(self, parts: list[Part], n: int, double: bool) -> Sums:
        return {part.name: np.zeros((_grains(part), 0, 0)) for part in parts}

    def update(self, state: Sums, seen: Seen) -> None:
        if seen.rows is not None:
            sums = kernels.gram(seen.rows, self.of_ == "weights")
        else:
            sums = _per_grain(seen.deltas if self.of_ == "deltas" else seen.tensors, lambda x: x @ x.T)
        _place(state, seen, sums)

    def combine(self, left: Sums, right: Sums) -> Sums:
        return _join(left, right)

    def finish(self, state: Sums) -> Floats:
        # Some tensors of a model may come with a base and others without: what all have is the models.
        p = min((grains.shape[1] for grains in state.values() if 0 not in grains.shape), default=0)
        common = {name: grains[:, -p:, -p:] for name, grains in state.items() if grains.shape[1] >= p}
        return _total(common if p else state)

    def nbytes(self, parts: list[Part], n: int) -> int:
        return sum(_grains(part) for part in parts) * (n + 1) ** 2 * 8


@dataclass(frozen=True)
class Energy(OfWeights):
    """Sums of squares over a scope, (n,) float64, of the models' deltas or of the models themselves.

    Of deltas, those only whose spread over the models is at least `select`.
    """

    of_: Literal["deltas", "weights"] = "deltas"
    select: "SpreadQuantile | None" = None

    @property
    def after(self) -> tuple[Statistic, ...]:
        return () if self.select is None else (self.select,)

    def init(self, parts: list[Part], n: int, double: bool) -> Sums:
        return {part.name: np.zeros((_grains(part), n)) for part in parts}

    def update(self, state: Sums, seen: Seen) -> None:
        stages = () if self.select is None else (Select(*seen.results[self.select]),)
        if seen.rows is not None:
            sums = kernels.energy(seen.rows.then(*stages), self.of_ == "weights")
        else:
            sums = _per_grain(seen.after(stages) if self.of_ == "deltas" else seen.tensors, lambda x: x.square().sum(1))
        # Some tensors of a model may come with a base and others without; it is no model.
        _place(state, seen, sums[:, sums.shape[1] - state[seen.name].shape[1] :])

    def combine(self, left: Sums, right: Sums) -> Sums:
        return _join(left, right)

    def finish(self, state: Sums) -> Floats:
        return _total(state)

    def nbytes(self, parts: list[Part], n: int) -> int:
        return sum(_grains(part) for part in parts) * n * 8


def _place(state: Sums, seen: Seen, sums: Floats) -> None:
    """Writes a slice's grains where they belong, making room on the tensor's first slice."""
    if state[seen.name].shape[1:] != sums.shape[1:]:
        state[seen.name] = np.zeros((-(-seen.numel // GRAIN), *sums.shape[1:]))
    first = seen.start // GRAIN
    state[seen.name][first : first + len(sums)] = sums


def _join(left: Sums, right: Sums) -> Sums:
    for name, grains in right.items():
        if left[name].shape == grains.shape:
            left[name] += grains
        elif 0 not in grains.shape[1:]:  # the other state has seen this tensor, be it empty
            left[name] = grains
    return left


@dataclass(frozen=True)
class Mass(OfWeights):
    """Sums of magnitudes of the deltas over a scope, (n,) float64.

    Attributes:
        cut: only those that reach the model's cut.
        band: only those that lie in the model's band.
        kept: only those that this stage keeps, drawn from the key of the chain position where it is asked for.
    """

    cut: "MagnitudeQuantile | None" = None
    band: "MagnitudeBand | None" = None
    kept: Stage | None = None

    @property
    def after(self) -> tuple[Statistic, ...]:
        return tuple(each for each in (self.cut, self.band) if each is not None)

    @property
    def by_rows(self) -> bool:
        return isinstance(self.kept, Ranked)

    def init(self, parts: list[Part], n: int, double: bool) -> Sums:
        return {part.name: np.zeros((_grains(part), n)) for part in parts}

    def update(self, state: Sums, seen: Seen) -> None:
        stages = self._stages(seen)
        if seen.rows is not None:
            sums = kernels.mass(seen.rows.then(*stages))
        else:
            sums = _per_grain(seen.after(stages), lambda x: x.abs().sum(1))
        _place(state, seen, sums)

    def _stages(self, seen: Seen) -> tuple[Stage, ...]:
        stages: tuple[Stage, ...] = () if self.cut is None else (Trim(seen.results[self.cut]),)
        if self.band is not None:
            stages = (*stages, band_of(seen.results[self.band]))
        return stages if self.kept is None else (*stages, at_step(self.kept, seen.key.step))

    def combine(self, left: Sums, right: Sums) -> Sums:
        return _join(left, right)

    def finish(self, state: Sums) -> Floats:
        return _total(state)

    def nbytes(self, parts: list[Part], n: int) -> int:
        return sum(_grains(part) for part in parts) * n * 8


@dataclass(frozen=True)
class SignBalance(OfWeights):
    """The sign of the whole vote: +1 if more elements elect plus than minus by weighted mass, else -1.

    The deltas are trimmed at `cut` first. Source: TIES authors' code, which gives exact zero votes to this majority.
    """

    weight: Numbers = (1.0,)
    cut: MagnitudeQuantile | None = None

    @property
    def after(self) -> tuple[Statistic, ...]:
        return () if self.cut is None else (self.cut,)

    def init(self, parts: list[Part], n: int, double: bool) -> list[int]:
        return [0]

    def update(self, state: list[int], seen: Seen) -> None:
        stages: tuple[Stage, ...] = () if self.cut is None else (Trim(seen.results[self.cut]),)
        if seen.rows is not None:
            weight = self.weight * seen.rows.n if len(self.weight) == 1 else self.weight
            state[0] += kernels.votes(seen.rows.then(*stages), weight)
            return
        deltas = seen.after(stages)
        weight = self.weight * len(deltas) if len(self.weight) == 1 else self.weight
        deltas = apply(Scale(weight), deltas, seen.key)
        plus, minus = deltas[0].clamp(min=0), deltas[0].clamp(max=0)
        for row in deltas[1:]:
            plus, minus = plus + row.clamp(min=0), minus + row.clamp(max=0)
        state[0] += int((plus + minus).sign().nan_to_num(0).sum())

    def combine(self, left: list[int], right: list[int]) -> list[int]:
        return [left[0] + right[0]]

    def finish(self, state: list[int]) -> int:
        return 1 if state[0] > 0 else -1

    def nbytes(self, parts: list[Part], n: int) -> int:
        return 8


@dataclass(frozen=True)
class Overlap(OfWeights):
    """How many deltas of each model are not zero, and of how many of those no other model's is: (n, 2).

    What is smaller than `floor` in magnitude counts as zero.
    """

    floor: float = 0.0

    def init(self, parts: list[Part], n: int, double: bool) -> NDArray[np.int64]:
        return np.zeros((n, 2), np.int64)

    def update(self, state: NDArray[np.int64], seen: Seen) -> None:
        stages = (Trim((self.floor,) * len(state)),)
        if seen.rows is not None:
            state += kernels.overlaps(seen.rows.then(*stages))
            return
        moved = seen.after(stages) != 0
        state[:, 0] += moved.sum(1).numpy(force=True)
        state[:, 1] += (moved & (moved.sum(0) == 1)).sum(1).numpy(force=True)

    def combine(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
        return left + right

    def finish(self, state: NDArray[np.int64]) -> Floats:
        return state.astype(np.float64)

    def nbytes(self, parts: list[Part], n: int) -> int:
        return n * 16


def restoring(everything: Floats, kept: Floats) -> Numbers:
    """Returns the factors that restore each model's mass after some of it was dropped: all / kept.

    Source: mergekit 0.1.5, which leaves a tensor alone when either mass is below 1e-7.
    """
    return tuple(float(a / k) if min(a, k) >= 1e-7 else 1.0 for a, k in zip(everything, kept, strict=True))
