"""Model folders of headers alone: every tensor is zeros of the type and shape asked for."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eutectic.checkpoint.open import open_checkpoint
from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.spec import DTYPES
from tests.make.checkpoints import entry, raw_bytes

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]


def model(
    folder: Path, tensors: Tensors, config: Mapping[str, Any] | None = None, tokens: Mapping[str, int] | None = None
) -> Checkpoint:
    """Writes and opens a model folder; the name of the folder is how messages call it."""
    folder.mkdir()
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * DTYPES[dtype].bits // 8
        header[name] = entry(dtype, shape, begin, end)
    (folder / "model.safetensors").write_bytes(raw_bytes(header, bytes(end)))
    (folder / "config.json").write_text(json.dumps(dict(config or {})))
    if tokens is not None:
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": dict(tokens)}, "added_tokens": []}))
    return open_checkpoint(str(folder))


def floats(shapes: Mapping[str, tuple[int, ...]], dtype: str = "F32") -> dict[str, tuple[str, tuple[int, ...]]]:
    """Returns tensors of one type."""
    return {name: (dtype, shape) for name, shape in shapes.items()}
