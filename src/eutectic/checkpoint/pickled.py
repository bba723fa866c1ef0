"""Torch pickle files as sources: tensors only, never executed, and only when somebody asked for them.

The one place of this layer that imports torch, inside its functions: headers of other formats are read without it.
"""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eutectic.checkpoint.files import InputFile
from eutectic.checkpoint.header import printable
from eutectic.checkpoint.ranges import elements, find, first_byte
from eutectic.checkpoint.sharded import ShardedFolder, check_index, find_index, read_index, shard_path, unindexed
from eutectic.checkpoint.source import Buffer, Source
from eutectic.checkpoint.spec import DTYPES, TensorSpec
from eutectic.errors import CheckpointError

if TYPE_CHECKING:
    import torch

#: How the names of files that are pickles end.
SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")

_DTYPES: dict[str, str] = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
}


def refuse_pickle(path: Path) -> CheckpointError:
    """Returns the error for a pickle that nobody asked for, which says how to ask."""
    return CheckpointError(
        f"{path}: is a torch pickle, and pickles are refused unless asked for; use a safetensors file, or allow "
        "pickles (`pickles: true` in the recipe): they are then read as weights only and never executed"
    )


class PickledFile:
    """A source of the tensors of one torch file, read with torch's weights-only unpickler.

    The file is mapped, not read; tensors that share storage are separate tensors here, each with its own values.

    Args:
        path: a file made by `torch.save` of a mapping from names to tensors, or of `{"state_dict": mapping}`.

    Raises:
        CheckpointError: when it holds anything that is not a plain tensor, or asks for code to be run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = InputFile(path)
        try:
            self._tensors = _tensors(_load(path), path)
            self._header = {name: _spec(name, tensor, path) for name, tensor in self._tensors.items()}
        except BaseException:
            self._file.close()
            raise

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def header(self) -> Mapping[str, TensorSpec]:
        """Every tensor by name, in the order of the saved mapping."""
        return self._header

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with the bytes of elements `start, start + 1, ...` of tensor `name`.

        Raises:
            CheckpointError: when the file changed since it was opened.
        """
        import torch

        spec = find(self._header, name, self.name)
        first_byte(spec, start, out.size)
        # The file is mapped: reading past the end of a truncated one would kill the process.
        self.check_unchanged()
        if out.size:
            values = _range(self._tensors[name], start, start + elements(spec, out.size))
            out[:] = values.view(torch.uint8).numpy()

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Does nothing: where in the file a tensor lies is torch's to know."""

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to produce the whole tensor once: its size."""
        return find(self._header, name, self.name).nbytes

    def fingerprint(self) -> str:
        """A digest of names, shapes and types, the file's size and time, and 16 blocks of 4 KiB spread over it.

        Raises:
            CheckpointError: when the file cannot be read.
        """
        specs = "\n".join(f"{spec.name}\0{spec.dtype} {list(spec.shape)}" for spec in self._header.values())
        return self._file.fingerprint(hashlib.sha256(specs.encode()).digest())

    def check_unchanged(self) -> None:
        """Checks that the file's size and modification time are those it was opened with.

        Raises:
            CheckpointError: when somebody wrote to the file since.
        """
        self._file.check_unchanged()

    def close(self) -> None:
        """Closes the file and lets go of the mapping."""
        self._file.close()
        self._tensors = {}


def _load(path: Path) -> object:
    import torch

    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files of torch before 1.6 are no zip archives and cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:  # a hostile pickle may raise anything; nothing of it has been run
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "weights only" in reason.lower():  # torch goes on to advise loading it unsafely, which we never do
            reason = "it holds more than tensors, and nothing but tensors is ever loaded"
        raise CheckpointError(f"{path}: cannot be read as torch weights: {reason:.300}") from error


def _tensors(loaded: object, path: Path) -> "dict[str, torch.Tensor]":
    """Returns the tensors by name; a mapping nested under `state_dict` is what is meant."""
    import torch

    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: expected a mapping from names to tensors, found {type(loaded).__name__}")
    found: dict[str, torch.Tensor] = {}
    for name, value in loaded.items():
        if not isinstance(name, str) or not printable(name) or name == "__metadata__":
            raise CheckpointError(f"{path}: expected the names of tensors, found the key {name!a:.200}")
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path}: expected only tensors, found '{name}' of type {type(value).__name__}")
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise CheckpointError(f"{path}: tensor '{name}' is sparse, quantized or without data, and cannot be read")
        found[name] = value.detach()
    return found


def _spec(name: str, tensor: "torch.Tensor", path: Path) -> TensorSpec:
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in _DTYPES:
        raise CheckpointError(f"{path}: tensor '{name}': elements of type {kind} cannot be written as safetensors")
    return TensorSpec(name, tuple(tensor.shape), DTYPES[_DTYPES[kind]])


def _range(tensor: "torch.Tensor", start: int, stop: int) -> "torch.Tensor":
    """Returns elements `start..stop` of the flattened tensor, contiguous; copies no more than the rows they lie in."""
    tensor = tensor.resolve_conj().resolve_neg()
    if tensor.is_contiguous():
        return tensor.reshape(-1)[start:stop]
    row = math.prod(tensor.shape[1:])
    first = start // row
    rows = tensor[first : (stop - 1) // row + 1].contiguous().reshape(-1)
    return rows[start - first * row : stop - first * row]


def open_pickles(folder: Path) -> Source | None:
    """Opens the torch files of a model folder as one source, or returns None when it has none.

    With pytorch_model.bin.index.json, its files and no others. Without one, pytorch_model.bin, or else every `.bin`
    file whose name begins with `pytorch_model`.

    Raises:
        CheckpointError: when a file or the index breaks a rule.
    """
    index = find_index(folder, ".bin", "pytorch_model.bin")
    weight_map: Mapping[str, Any] = read_index(index) if index else {}
    names = sorted(set(weight_map.values())) if index else unindexed(folder, ".bin", "pytorch_model.bin")
    # Trainers leave other pickles beside the weights (training_args.bin, optimizer.bin).
    names = names if index else [name for name in names if name.startswith("pytorch_model")]
    if not names:
        return None
    shards: dict[str, Source] = {}
    try:
        for filename in names:
            shards[filename] = PickledFile(shard_path(folder, filename))
        source = ShardedFolder(folder, shards)
        if index:
            check_index(index, weight_map, source)
    except BaseException:
        for shard in shards.values():
            shard.close()
        raise
    return source
