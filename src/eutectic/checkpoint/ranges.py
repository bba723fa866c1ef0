"""Element ranges of a flattened tensor as byte ranges: the arithmetic every source shares."""

from collections.abc import Mapping

from eutectic.checkpoint.spec import TensorSpec
from eutectic.errors import CheckpointError, nearest


def find(header: Mapping[str, TensorSpec], name: str, where: str) -> TensorSpec:
    """Returns the spec of tensor `name` in the source that messages call `where`.

    Raises:
        CheckpointError: when there is no such tensor.
    """
    spec = header.get(name)
    if spec is None:
        raise CheckpointError(f"{where}: there is no tensor '{name}'{nearest(name, header)}")
    return spec


def first_byte(spec: TensorSpec, start: int, size: int) -> int:
    """Returns where element `start` begins, in bytes from the tensor's start, for a read of `size` bytes.

    Raises:
        ValueError: when the range leaves the tensor or starts or ends inside a byte; the caller's bug, not the file's.
    """
    byte, rest = divmod(start * spec.dtype.bits, 8)
    if start < 0 or rest or byte + size > spec.nbytes or size * 8 % spec.dtype.bits:
        raise ValueError(f"{size} bytes from element {start} are not a range of {spec}")
    return byte


def elements(spec: TensorSpec, size: int) -> int:
    """Returns how many elements of the tensor `size` bytes hold."""
    return size * 8 // spec.dtype.bits
