"""Builders of tiny checkpoints and of raw safetensors bytes, right or wrong on purpose."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from eutectic.checkpoint.source import Source

Values = np.ndarray[Any, Any] | torch.Tensor


def as_torch(values: Mapping[str, Values]) -> dict[str, torch.Tensor]:
    """Returns the tensors as contiguous torch tensors."""
    return {
        name: (value if isinstance(value, torch.Tensor) else torch.from_numpy(np.asarray(value))).contiguous().clone()
        for name, value in values.items()
    }


def write_file(path: Path, tensors: Mapping[str, Values]) -> Path:
    """Writes one safetensors file with the `safetensors` package."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(as_torch(tensors), path, metadata={"format": "pt"})
    return path


def write_model(
    folder: Path, tensors: Mapping[str, Values], config: Mapping[str, Any] | None = None, shards: int = 1
) -> Path:
    """Writes a model folder: weights in one file or in `shards` files with an index, and config.json unless None."""
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        write_file(folder / "model.safetensors", tensors)
        return folder
    names = list(tensors)
    cuts = [len(names) * number // shards for number in range(shards + 1)]
    weight_map: dict[str, str] = {}
    for number in range(shards):
        filename = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = names[cuts[number] : cuts[number + 1]]
        write_file(folder / filename, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, filename)
    total = sum(value.nbytes for value in as_torch(tensors).values())
    write_index(folder, weight_map, total)
    return folder


def write_index(folder: Path, weight_map: Mapping[str, Any], total: int = 0) -> Path:
    """Writes model.safetensors.index.json, whatever it says."""
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": dict(weight_map)}))
    return path


def raw_bytes(header: Mapping[str, Any] | bytes, body: bytes = b"", length: int | None = None) -> bytes:
    """Returns the bytes of a safetensors file that says what it is told to, true or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def entry(dtype: str, shape: Sequence[Any], begin: Any, end: Any) -> dict[str, Any]:
    """Returns one tensor's entry of a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def read(source: Source, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
    """Returns the bytes of elements `start..stop` of a tensor."""
    spec = source.header[name]
    count = (spec.numel if stop is None else stop) - start
    out = np.empty(count * spec.dtype.bits // 8, np.uint8)
    source.read_into(name, start, out)
    return out
