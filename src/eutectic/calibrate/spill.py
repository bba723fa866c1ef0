"""Activations on disk while their batch waits: the tensors stay where they are, and only their memory goes."""

import ctypes
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from eutectic.numerics.tensors import torch

#: Smaller tensors are not worth a file.
LEAST = 1 << 16


class Spill:
    """Files of activations in a temporary folder.

    Args:
        resident: tensors that are not touched: the model's own.
        folder: where the temporary folder is made.
    """

    def __init__(self, resident: Iterable[Any], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._resident = {tensor.untyped_storage().data_ptr() for tensor in resident if not tensor.is_meta}
        self._folder = tempfile.TemporaryDirectory(prefix="eutectic-", dir=folder)
        self._kept: dict[int, list[tuple[Any, int, Path]]] = {}

    def put(self, batch: int, held: object) -> None:
        """Writes the float tensors within `held` and frees their memory."""
        kept = self._kept.setdefault(batch, [])
        seen = set()
        for tensor in _tensors(held):
            storage = tensor.untyped_storage()
            size = storage.nbytes()
            if size < LEAST or storage.data_ptr() in seen or storage.data_ptr() in self._resident:
                continue
            seen.add(storage.data_ptr())
            path = Path(self._folder.name) / f"{batch}-{len(kept)}"
            path.write_bytes(_bytes(storage, size))
            storage.resize_(0)
            kept.append((storage, size, path))

    def fetch(self, batch: int) -> None:
        """Gives a batch's tensors their memory back."""
        for storage, size, path in self._kept.pop(batch, []):
            storage.resize_(size)
            with path.open("rb") as file:
                file.readinto(_bytes(storage, size))
            path.unlink()

    def __enter__(self) -> "Spill":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()


def _bytes(storage: Any, size: int) -> memoryview:
    """A storage's memory; numpy's view of it would not let it be resized."""
    return memoryview((ctypes.c_uint8 * size).from_address(storage.data_ptr())).cast("B")


def _tensors(held: object) -> Iterator[Any]:
    if isinstance(held, torch.Tensor):
        yield held
    elif isinstance(held, Mapping):
        for value in held.values():
            yield from _tensors(value)
    elif isinstance(held, list | tuple):
        for value in held:
            yield from _tensors(value)
