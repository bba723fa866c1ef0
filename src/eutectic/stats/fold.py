"""Statistics: what a method needs and cannot see in one slice, declared as folds.

A statistic is a frozen value (equal statistics are computed once). The engine gives each worker a state from `init`,
shows it every slice of the statistic's scope through `update`, joins the workers' states with `combine`, and asks
`finish` for the result. Laws, tested over every statistic: the order of slices, how a tensor is cut into slices
(at multiples of `GRAIN` elements), how work is shared between states, and resuming change nothing, to the last bit.
Beside the weights, a statistic may be shown what calibration found of the same slice (`Seen.measured`).
"""

import enum
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from eutectic.errors import UndeclaredNeed
from eutectic.numerics.draw import Key
from eutectic.numerics.kernels import Rows
from eutectic.numerics.stages import Stage
from eutectic.numerics.tensors import Tensor


class Origin(enum.Enum):
    """What a statistic is computed from."""

    WEIGHTS = "weights"
    INPUTS = "inputs"
    GRADIENTS = "gradients"
    LEARNED = "learning"


class Of(enum.Enum):
    """Whose numbers: each expert's, the base's, or the merged model's so far."""

    EACH = "each"
    BASE = "base"
    MERGED = "merged"


class Scope(enum.IntEnum):
    """How much one result speaks for."""

    TENSOR = 0
    MODEL = 2


@dataclass(frozen=True)
class Part:
    """One tensor of a scope: its name, element count and shape."""

    name: str
    numel: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...]) -> "Part":
        """Returns a tensor of that shape."""
        return cls(name, math.prod(shape), shape)

    @property
    def width(self) -> int:
        """Elements of a row: the last axis; all of a vector."""
        return max(1, self.shape[-1] if len(self.shape) > 1 else self.numel)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.numel // self.width


class Seen:
    """One slice of one site, shown to a statistic after the transforms that precede it in the chain.

    Attributes:
        name: the site's tensor.
        start: index of the slice's first element.
        numel: elements in the whole tensor.
        width: elements of a row.
        key: the source of draws, at the slice's start.
        rows: the slice as the fused kernels take it; None where they do not apply (another device, or a transform
            they cannot express). Then `tensors`, `deltas` and `after` serve.
        results: finished statistics this one depends on.
        measured: gives the slice of a calibrated result that belongs to this slice of weights, flattened:
            (n, elements). The result must be `aligned`, and the method must have declared it.
    """

    def __init__(
        self,
        part: Part,
        start: int,
        key: Key,
        rows: Rows | None,
        tensors: Callable[[], Tensor],
        after: Callable[[tuple[Stage, ...]], Tensor],
        results: Mapping["Statistic", Any],
        measured: "Callable[[Calibrated], Tensor] | None" = None,
    ) -> None:
        self.name, self.numel, self.width = part.name, part.numel, part.width
        self.start, self.key, self.rows, self.results = start, key, rows, results
        self._tensors, self.after, self.measured = tensors, after, measured or _not_declared

    @property
    def tensors(self) -> Tensor:
        """The base (if there is one) and the models themselves, flattened: (n + 1 or n, elements).

        A statistic that must see whole tensors gets them in their shape: (n + 1 or n, *shape).
        """
        return self._tensors()

    @property
    def deltas(self) -> Tensor:
        """The models' differences from the base after the transforms so far, flattened: (n, elements).

        `after` gives them after further stages, which may rank within rows. A statistic that must see whole tensors
        gets them in their shape: (n, *shape).
        """
        return self.after(())


def _not_declared(statistic: "Calibrated") -> Tensor:
    raise UndeclaredNeed(f"{statistic.key} was read by a statistic but not declared in calibrated")


@dataclass(frozen=True)
class Again:
    """What `finish` returns when the statistic has to see everything once more, starting from this state."""

    state: Any


class Statistic(Protocol):
    """The interface of a fold. Implementations are frozen dataclasses, hashable by value."""

    @property
    def origin(self) -> Origin:
        """What it is computed from."""
        ...

    @property
    def of(self) -> Of:
        """Whose numbers it takes."""
        ...

    @property
    def scope(self) -> Scope:
        """How much one result speaks for."""
        ...

    @property
    def after(self) -> "tuple[Statistic, ...]":
        """Statistics whose results it needs first, at the same chain position."""
        ...

    @property
    def by_rows(self) -> bool:
        """Whether the rows that a slice touches must be there in full; slices may still end within them."""
        ...

    @property
    def whole(self) -> bool:
        """Whether it must see whole tensors at once, through torch, rather than slices."""
        ...

    @property
    def whole_rows(self) -> bool:
        """Whether it must be shown whole rows; then slices start where rows do, and not at grains."""
        ...

    def scratch(self, n: int, shape: tuple[int, ...]) -> float:
        """Peak extra memory of `update` on n models of a shape, in elements; asked where it sees whole tensors."""
        ...

    def init(self, parts: list[Part], n: int, double: bool) -> Any:
        """Returns an empty state for one scope of n models, computed in float64 if `double`."""
        ...

    def sample(self, state: Any) -> int:
        """The sweep that fills this state need show only one element in so many; 1 when it must see all."""
        ...

    def update(self, state: Any, seen: Seen) -> None:
        """Adds one slice to the state."""
        ...

    def combine(self, left: Any, right: Any) -> Any:
        """Joins the states of two disjoint sets of slices; may change `left`."""
        ...

    def finish(self, state: Any) -> Any:
        """Returns the result, or `Again` with a narrower state when another sweep is needed."""
        ...

    def sweeps(self, total: int, double: bool) -> float:
        """How often a scope of `total` elements is shown until the result is known, as a rule; a sample is a share."""
        ...

    def nbytes(self, parts: list[Part], n: int) -> int:
        """Bytes of one state."""
        ...


class Sees(enum.Enum):
    """What calibration shows a statistic at a tensor."""

    INPUTS = "inputs"  #: rows that a linear map multiplies, (rows, width)
    NORMALISED = "normalised"  #: rows that a norm's scale multiplies, (rows, width)
    GRADIENTS = "gradients"  #: derivatives in the tensor's own shape


#: Last words of the names of what is added to activations, rather than multiplied with them.
_ADDED = ("bias", "beta")


def meets(name: str, axes: int) -> Sees | None:
    """Returns what a tensor of a layer is multiplied with.

    Inputs where it is a map, what a norm made where it is a scale, and nothing where it is a shift.

    Args:
        name: the tensor's name.
        axes: how many it has.
    """
    if axes > 1:
        return Sees.INPUTS
    return Sees.NORMALISED if axes and not name.endswith(_ADDED) else None


class Calibrated(ABC):
    """What calibration computes of data and models, and keeps on disk.

    Implementations are frozen dataclasses, hashable by value. Each result is one tensor a model and tensor of weights,
    with the number of rows (or samples) that it was made from. A method that sees slices is handed the slice of a
    result that is `aligned`; of any other it is handed all, one model at a time (`stats.store.Measured`).
    """

    #: What it is computed from.
    origin: Origin
    #: Whose weights the data is passed through; results are always one a model.
    of: Of = Of.EACH
    #: Whether a result has the shape of the tensor it is about.
    aligned: bool = False
    #: Whether a result is symmetric in its last two axes, so that half of it need be kept.
    symmetric: bool = False

    @property
    def key(self) -> str:
        """What names it in digests and lists."""
        return repr(self)

    @abstractmethod
    def takes(self, sees: Sees) -> bool:
        """Whether it has a result at tensors that are shown this."""


class Accumulated(Calibrated):
    """A calibrated statistic of what passes through a model: a fold over it like the others."""

    @abstractmethod
    def init(self, shape: tuple[int, ...]) -> Tensor:
        """Returns an empty state, given the shape of what one row (or gradient) will be."""

    @abstractmethod
    def update(self, state: Tensor, seen: Tensor) -> None:
        """Adds rows `(..., rows, width)`, or one gradient, to the state."""

    @abstractmethod
    def finish(self, state: Tensor, count: int) -> Tensor:
        """Returns the result in float32 from the state and the number of rows or samples it has seen."""

    def combine(self, left: Tensor, right: Tensor) -> Tensor:
        """Joins the states of disjoint data; may change `left`."""
        return left.add_(right)


@dataclass(frozen=True)
class Norm:
    """The Euclidean norm of a calibrated statistic over all tensors of a merge that read it: n numbers."""

    over: Calibrated


@dataclass(frozen=True)
class OfWeights:
    """What most statistics of the weights themselves share: they see each expert's."""

    scope: Scope

    @property
    def origin(self) -> Origin:
        return Origin.WEIGHTS

    @property
    def of(self) -> Of:
        return Of.EACH

    @property
    def after(self) -> tuple[Statistic, ...]:
        return ()

    @property
    def by_rows(self) -> bool:
        return False

    @property
    def whole(self) -> bool:
        return False

    @property
    def whole_rows(self) -> bool:
        return False

    def scratch(self, n: int, shape: tuple[int, ...]) -> float:
        return 0.0

    def sample(self, state: Any) -> int:
        return 1

    def sweeps(self, total: int, double: bool) -> float:
        return 1.0
