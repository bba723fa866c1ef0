"""Builders of adapters: by hand, right or wrong on purpose, and by PEFT itself on tiny random models."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.checkpoint.source import Checkpoint, Source
from tests.make.checkpoints import Values, write_file, write_model


def config(**changes: Any) -> dict[str, Any]:
    """Returns the adapter_config.json of a plain LoRA of rank 2 and scale 2, with changes."""
    return {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 2, "lora_alpha": 4} | changes


def write_adapter(folder: Path, tensors: Mapping[str, Values], **changes: Any) -> Path:
    """Writes an adapter folder from tensors as named in its file, and configuration keys that differ from `config`."""
    write_file(folder / "adapter_model.safetensors", tensors)
    (folder / "adapter_config.json").write_text(json.dumps(config(**changes)))
    return folder


def factors(module: str, out: int, inputs: int, rank: int = 2, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Returns the two random factors of a module as PEFT names them in a file."""
    draw = np.random.default_rng(seed)
    prefix = f"base_model.model.{module}"
    return {
        f"{prefix}.lora_A.weight": draw.standard_normal((rank, inputs)).astype(np.float32),
        f"{prefix}.lora_B.weight": draw.standard_normal((out, rank)).astype(np.float32),
    }


def write_base(folder: Path, tensors: Mapping[str, Values]) -> Checkpoint:
    """Writes a model of one file and opens it."""
    write_model(folder, tensors, config={})
    return open_base(folder)


def open_base(folder: Path) -> Checkpoint:
    """Opens a model folder of one file."""
    return Checkpoint(str(folder), SafetensorsFile(folder / "model.safetensors"), folder)


def read(source: Source, name: str) -> np.ndarray[Any, Any]:
    """Reads a whole float tensor in its own type (bfloat16 as float32)."""
    spec = source.header[name]
    raw = np.empty(spec.nbytes, np.uint8)
    source.read_into(name, 0, raw)
    if spec.dtype.name == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(spec.shape)
    types = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
    return raw.view(types[spec.dtype.name]).reshape(spec.shape)


def train(model: Any, lora: Any, folder: Path, seed: int = 0) -> tuple[Checkpoint, Path, dict[str, torch.Tensor]]:
    """Gives a model a PEFT adapter with random values and merges it in PEFT.

    Returns:
        the base on disk, the adapter's folder, and the tensors of the model that PEFT merged and saved.
    """
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's remarks on Conv1D, tied heads and saved embeddings
        model.save_pretrained(folder / "base")
        tuned = get_peft_model(model, lora)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in (p for p in tuned.parameters() if p.requires_grad):
                value += 0.2 * torch.randn(value.shape, generator=generator).to(value.dtype)
        tuned.save_pretrained(folder / "adapter")
        tuned.merge_and_unload().save_pretrained(folder / "merged")
    return open_base(folder / "base"), folder / "adapter", load_file(folder / "merged" / "model.safetensors")
