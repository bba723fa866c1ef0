"""What a tensor on disk is, before a byte of it is read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["float", "int", "bool", "complex", "code"]


@dataclass(frozen=True)
class DType:
    """An element type of the safetensors format: its name there, its size in bits, and what its values are.

    `code` marks types whose bytes mean nothing without scales kept elsewhere (fp8, fp6, fp4): they are read and
    copied, and never merged as numbers.
    """

    name: str
    bits: int
    kind: Kind

    @property
    def mergeable(self) -> bool:
        """Whether arithmetic on the stored values makes sense."""
        return self.kind == "float"

    def __str__(self) -> str:
        return self.name


_TABLE: tuple[tuple[str, int, Kind], ...] = (
    ("F64", 64, "float"),
    ("F32", 32, "float"),
    ("F16", 16, "float"),
    ("BF16", 16, "float"),
    ("I64", 64, "int"),
    ("I32", 32, "int"),
    ("I16", 16, "int"),
    ("I8", 8, "int"),
    ("U64", 64, "int"),
    ("U32", 32, "int"),
    ("U16", 16, "int"),
    ("U8", 8, "int"),
    ("BOOL", 8, "bool"),
    ("C64", 64, "complex"),
    ("F8_E4M3", 8, "code"),
    ("F8_E5M2", 8, "code"),
    ("F8_E4M3FNUZ", 8, "code"),
    ("F8_E5M2FNUZ", 8, "code"),
    ("F8_E8M0", 8, "code"),
    ("F6_E2M3", 6, "code"),
    ("F6_E3M2", 6, "code"),
    ("F4", 4, "code"),
)
DTYPES: dict[str, DType] = {name: DType(name, bits, kind) for name, bits, kind in _TABLE}

#: The names torch and transformers use for the types a merge can compute or write.
TORCH_NAMES: dict[str, str] = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def widest(types: Sequence[DType]) -> DType:
    """Returns the least float type that holds all of these: the same where they agree, else float32 or float64."""
    if any(each.name == "F64" for each in types):
        return DTYPES["F64"]
    return types[0] if len(set(types)) == 1 else DTYPES["F32"]


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and element type of one tensor; a 0-d tensor has shape `()` and one element."""

    name: str
    shape: tuple[int, ...]
    dtype: DType

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self.numel * self.dtype.bits // 8
