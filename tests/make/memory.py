"""Checkpoints that live in memory: the same interface as files, without a disk."""

from collections.abc import Mapping
from types import MappingProxyType

import torch

from eutectic.checkpoint.source import Buffer, Checkpoint
from eutectic.checkpoint.spec import DTYPES, TORCH_NAMES, TensorSpec

#: Torch's types by the names of the safetensors format.
TORCH: Mapping[str, torch.dtype] = MappingProxyType({name: getattr(torch, t) for t, name in TORCH_NAMES.items()})
NAMES: Mapping[torch.dtype, str] = MappingProxyType({t: name for name, t in TORCH.items()})


def to_bytes(tensor: torch.Tensor) -> Buffer:
    """Returns a tensor's elements as the bytes a file would hold."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().copy()


def from_bytes(raw: Buffer, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Returns the tensor that bytes of a stored type hold."""
    if not raw.size:
        return torch.empty(shape, dtype=TORCH[dtype])
    return torch.from_numpy(raw.copy()).view(TORCH[dtype]).reshape(shape)


def describe(name: str, tensor: torch.Tensor) -> TensorSpec:
    """Returns what a file's header says of a tensor."""
    return TensorSpec(name, tuple(tensor.shape), DTYPES[NAMES[tensor.dtype]])


class MemorySource:
    """Named tensors, read like a file's."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], name: str = "memory") -> None:
        self._name = name
        self._header = {key: describe(key, tensor) for key, tensor in tensors.items()}
        self._bytes = {key: to_bytes(tensor) for key, tensor in tensors.items()}

    @property
    def name(self) -> str:
        """How messages call it."""
        return self._name

    @property
    def header(self) -> Mapping[str, TensorSpec]:
        """Every tensor by name."""
        return self._header

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with the bytes of elements from `start` on."""
        first = start * self._header[name].dtype.bits // 8
        assert first + len(out) <= len(self._bytes[name]), "read past the end of a tensor"
        out[:] = self._bytes[name][first : first + len(out)]

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Checks the range; there is nothing to fetch."""
        assert 0 <= start <= stop <= self._header[name].numel

    def read_cost(self, name: str) -> int:
        """Bytes of the tensor."""
        return self._header[name].nbytes

    def fingerprint(self) -> str:
        """Names this very object."""
        return f"memory-{id(self)}"

    def check_unchanged(self) -> None:
        """Nothing changes in memory."""

    def close(self) -> None:
        """There is nothing to close."""


def checkpoint(tensors: Mapping[str, torch.Tensor], *, deltas: bool = False) -> Checkpoint:
    """Returns tensors as an open checkpoint."""
    return Checkpoint("memory", MemorySource(tensors), deltas=deltas)
