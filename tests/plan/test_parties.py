"""Inputs as vocabularies see them, on headers of zeros."""

import json
from pathlib import Path
from typing import Any

import pytest

from eutectic.errors import CheckpointError, MismatchError
from eutectic.plan.parties import Party, party_of, special_numbers
from tests.layout.files import floats, model

TOKENS = {"<s>": 0, "a": 1, "</s>": 2, "b": 3}
TENSORS = {
    "model.embed_tokens.weight": (6, 4),
    "lm_head.weight": (4, 4),
    "model.visual.embedding.weight": (1, 1),
    "final_logits_bias": (1, 6),
    "model.norm.weight": (4,),
}


def party(folder: Path, config: dict[str, Any] | None = None, **roles: str) -> Party:
    """Writes and opens a model of these tensors and tokens."""
    checkpoint = model(folder, floats(TENSORS), config, TOKENS)
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    return party_of(checkpoint, ("name",))


def test_rows_and_axes(tmp_path: Path) -> None:
    """The fewest rows of what can be tokens count; a codebook of one row cannot; a bias has its tokens last."""
    found = party(tmp_path / "m")
    assert found.rows == 4
    assert [found.axis(name) for name in TENSORS] == [0, 0, None, 1, None]


def test_no_embedding(tmp_path: Path) -> None:
    """A model without rows for its tokens is refused, as is one without a tokenizer."""
    bare = model(tmp_path / "bare", floats({"model.norm.weight": (4,)}), None, TOKENS)
    with pytest.raises(MismatchError, match="no tensor has a row for each of its tokens"):
        _ = party_of(bare, ()).rows
    with pytest.raises(CheckpointError, match=r"expected a tokenizer\.json"):
        party_of(model(tmp_path / "none", floats(TENSORS)), ())


def test_special_numbers(tmp_path: Path) -> None:
    """What the config says, lists too, in the output's numbers; else the tokenizer's named tokens."""
    config = {"eos_token_id": [2, 3], "text_config": {"image_token_id": 1}, "pad_token_id": 9, "vocab_size": 6}
    owner = party(tmp_path / "m", config, bos_token="<s>", unk_token="?")
    assert special_numbers(owner, {"<s>": 10, "a": 11, "</s>": 12, "b": 13}) == {
        "bos_token_id": 10,
        "eos_token_id": [12, 13],
        "image_token_id": 11,
    }
