import json
from pathlib import Path

import numpy as np

from eutectic.checkpoint.open import open_checkpoint
from eutectic.layout.inspection import inspect_checkpoint
from tests.make.checkpoints import write_model


def test_what_a_model_holds(tmp_path: Path) -> None:
    """Two blocks and an embedding: names with type, shape, bytes, role, block and depth, as plain data."""
    tensors = {
        "model.embed_tokens.weight": np.zeros((4, 2), np.float16),
        "model.layers.0.self_attn.q_proj.weight": np.zeros((2, 2), np.float32),
        "model.layers.1.self_attn.q_proj.weight": np.zeros((2, 2), np.float32),
    }
    folder = write_model(tmp_path / "model", tensors, {"model_type": "llama"})
    seen = inspect_checkpoint(open_checkpoint(str(folder)))
    told = json.loads(json.dumps(seen.describe()))
    assert (told["reference"], told["deltas"], told["tied"]) == (str(folder), False, [])
    assert told["stacks"] == {"model.layers": 2}
    assert set(told["tensors"]) == set(tensors)
    assert told["tensors"]["model.layers.1.self_attn.q_proj.weight"] == {
        "dtype": "F32",
        "shape": [2, 2],
        "bytes": 16,
        "role": "attention.query",
        "block": 1,
        "depth": 1.0,
    }
    assert told["tensors"]["model.embed_tokens.weight"]["block"] is None
    assert told["fingerprint"] == seen.fingerprint


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    """Another value, another fingerprint."""
    prints = set()
    for value in (0.0, 1.0):
        folder = write_model(tmp_path / str(value), {"w": np.full(3, value)}, {})
        prints.add(inspect_checkpoint(open_checkpoint(str(folder))).fingerprint)
    assert len(prints) == 2
