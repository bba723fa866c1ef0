"""Extras: what a method makes for each model beside the merged tensor, such as a mask or a few numbers.

A method declares them once (`combine(extras=...)`) and returns `Outputs`. From the declaration follow the files they
go to, their places in them, their price in memory, and how they are written slice by slice; and from the `specialise`
that is declared beside them, how the model of one task comes back.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from eutectic.numerics.tensors import Tensor

Shape = tuple[int, ...]
#: One bit an element, eight to a byte: bit k of byte b belongs to element 8 b + k.
BIT = "BIT"
_BITS = {BIT: 1, "U8": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64}


@dataclass(frozen=True)
class Extra:
    """One thing that a method makes of every site, for each of the n models.

    Attributes:
        name: what the files call it.
        dtype: how it is stored: `BIT`, or U8, F16, BF16, F32, F64.
        shape: its shape for one model, given the site's shape and n: `number` for a single one, None where a site has
            no such extra. Without a function it has an element for each of the site's, and is made in slices.
    """

    name: str
    dtype: str
    shape: Callable[[Shape, int], Shape | None] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in _BITS or (self.dtype == BIT and self.shape is not None):
            raise TypeError(f"extra {self.name}: expected bits an element, or one of {', '.join(_BITS)}")

    @property
    def elementwise(self) -> bool:
        """Whether it has an element for each of the site's."""
        return self.shape is None

    def stored(self, shape: Shape, n: int) -> Shape | None:
        """Returns the shape it is stored in for one model; bits are stored as rows of bytes."""
        if self.shape is not None:
            return self.shape(shape, n)
        return (-(-math.prod(shape) // 8),) if self.dtype == BIT else shape

    def first_byte(self, start: int) -> int:
        """Returns where element `start` of the site begins in it; what is not element-wise begins at its own start."""
        return start * _BITS[self.dtype] // 8 if self.elementwise else 0

    def nbytes(self, start: int, count: int, shape: Shape, n: int) -> int:
        """Bytes for one model of the slice from `start` on; what is not element-wise goes with the first slice."""
        if self.elementwise:
            return -(-count * _BITS[self.dtype] // 8)
        stored = self.stored(shape, n)
        return 0 if start or stored is None else math.prod(stored) * _BITS[self.dtype] // 8


def number(shape: Shape, n: int) -> Shape:
    """The shape of a single number."""
    return ()


@dataclass(frozen=True)
class Outputs:
    """What a method with extras returns: the merged tensor, (*shape), and each extra by name, (n, *its shape)."""

    merged: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)


#: `(base, merged, extras of one task) -> that task's tensor`, all of one slice unless an extra is a matrix.
Specialise = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]
