"""Site: where a merge happens. All a method sees, and nothing it did not declare."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from eutectic.adapters.factors import Factors
from eutectic.errors import RecipeError, UndeclaredNeed
from eutectic.numerics.draw import Key
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Sees, meets

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Coordinates:
    """The models' updates in a basis they share: update i is `scale * left @ values[i] @ right`.

    What a transform of FACTORS returns. The rest of the chain then merges `values` as it would merge deltas, and the
    result is carried back through the basis. A part of the basis that the updates do not fill is zero columns.

    Attributes:
        values: (n, k, m).
        left: (d_out, k); None where k is d_out and nothing is to be done.
        right: (m, d_in); None where m is d_in.
        rights: (n, m, d_in), in place of `right` where each model has its own, which the chain merges as well.
        scale: a factor on the update that is carried back.
    """

    values: Tensor
    left: Tensor | None = None
    right: Tensor | None = None
    rights: Tensor | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Site:
    """One output tensor, or a slice of it, with all models' values in work precision.

    Attributes:
        name: the output tensor.
        n: number of models, the base not counted.
        key: the source of draws; draws depend on seed, tensor name, chain position, model and element index only.
        results: finished statistics of the method, by the names it declared them under.
        values: the models' tensors, (n, *shape), or their deltas when a base is there; None when only the statistics
            may be read (while a method describes itself to the kernels).
        anchor: the base, (*shape), if the method declared it or an adapter needs it.
        are_deltas: `values` holds differences from the base.
        stacked: how many maps of one size the tensor holds, one behind the other along its outputs.
        updates: the adapters' stored factors, where the method declared `Needs(domain=Domain.FACTORS)`.
        lanes: threads that `each` may use.
        width: elements of a row of the whole tensor (its last axis).
        numel: elements of the whole tensor.
    """

    name: str
    n: int
    key: Key
    results: Mapping[str, Any]
    values: Tensor | None = None
    anchor: Tensor | None = None
    are_deltas: bool = False
    lanes: int = 1
    width: int = 1
    numel: int = 0
    stacked: int = 1
    updates: tuple[Factors, ...] | None = None

    @property
    def factors(self) -> tuple[Factors, ...]:
        """The stored factors of the n adapters that have this module: b (d_out, r_i), a (r_i, d_in), and scales.

        Ranks and scales may differ. Both factors are as the adapter stores them, also where the base keeps the weight
        transposed. Float32, or float64 if the recipe says so.

        Raises:
            UndeclaredNeed: when the method did not declare `Needs(domain=Domain.FACTORS)`.
        """
        if self.updates is None:
            raise UndeclaredNeed(f"{self.name}: reads factors without declaring Needs(domain=Domain.FACTORS)")
        return self.updates

    @property
    def meets(self) -> Sees | None:
        """What the tensor is multiplied with, by its name and axes: inputs, what a norm made, or nothing (a shift)."""
        values = self.base if self.values is None else self.values[0]
        return meets(self.name, values.dim())

    @property
    def tensors(self) -> Tensor:
        """The models themselves, (n, *shape)."""
        if self.values is None:
            raise UndeclaredNeed(f"{self.name}: tensors cannot be read here")
        return self.values + self.base if self.are_deltas else self.values

    @property
    def base(self) -> Tensor:
        """The base, (*shape).

        Raises:
            UndeclaredNeed: when the method did not declare `Needs(base=True)`.
        """
        if self.anchor is None:
            raise UndeclaredNeed(f"{self.name}: the method reads the base without declaring Needs(base=True)")
        return self.anchor

    @property
    def deltas(self) -> Tensor:
        """The models' differences from the base after the transforms so far, (n, *shape)."""
        if self.values is None:
            raise UndeclaredNeed(f"{self.name}: deltas cannot be read here")
        return self.values if self.are_deltas else self.values - self.base

    def fold(self, name: str) -> Any:
        """Returns the result of a declared statistic.

        Raises:
            UndeclaredNeed: when the method did not declare it.
        """
        if name not in self.results:
            raise UndeclaredNeed(f"{self.name}: fold '{name}' was read but not declared in folds")
        return self.results[name]

    def each(self, do: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Returns `do(item)` for all items, in order, on as many threads as the engine lends.

        Every call is made on its own, so that the results do not depend on how many threads there are.
        """
        if self.lanes == 1:
            return [do(item) for item in items]
        with ThreadPoolExecutor(self.lanes) as pool:
            return list(pool.map(do, items))

    def with_deltas(self, deltas: Tensor) -> "Site":
        """Returns the site whose models are base + deltas."""
        return replace(self, values=deltas, are_deltas=True)

    def column(self, numbers: Any) -> Tensor:
        """Shapes n numbers to (n, 1, ..., 1), ready to broadcast against `deltas` or `tensors`."""
        like = self.deltas if self.values is None else self.values
        data = torch.as_tensor(numbers, dtype=like.dtype, device=like.device)
        return data.reshape(-1, *[1] * (like.dim() - 1))


def weighted_sum(weight: Tensor, rows: Tensor) -> Tensor:
    """Returns sum of weight[i] * rows[i], added in model order: (n, 1, ...), (n, *shape) -> (*shape).

    A plain `sum(0)` may add in another order for another slice length.
    """
    total = weight[0] * rows[0]
    for w, row in zip(weight[1:], rows[1:], strict=True):
        total = total + w * row
    return total


def divisor(weight: tuple[float, ...], name: str) -> float:
    """Returns what an average with these weights is divided by: their sum.

    Raises:
        RecipeError: when they add up to 0; the message starts with the tensor's `name`.
    """
    total = sum(weight)
    if abs(total) <= 1e-6 * sum(map(abs, weight)):  # 0.1 + 0.2 - 0.3 is not 0 in floats
        raise RecipeError(f"{name}: weights add up to 0 and cannot be normalized; change them or set normalize: false")
    return total
