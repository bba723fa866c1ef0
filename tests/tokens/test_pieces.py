"""Rows made of the rows of pieces."""

import sys
from pathlib import Path

import pytest
import torch

from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.errors import CheckpointError, RecipeError
from eutectic.tokens.pieces import Pieced, split
from eutectic.tokens.rows import Given
from eutectic.tokens.tokenizer import read_tokenizer
from tests.make.checkpoints import write_file
from tests.make.vocabularies import ENGLISH, byte_level


def test_rows(tmp_path: Path) -> None:
    """Rows 1, 2, 4: pieces 0 and 2 have mean 2.5 and sum 5; a token of no pieces is zeros."""
    file = SafetensorsFile(write_file(tmp_path / "e.safetensors", {"e": torch.tensor([[1.0], [2.0], [4.0]])}))
    own, pieces = Given(file, "e"), [(0, 2), (1,), ()]
    wanted = {"mean": [2.5, 2, 0], "sum": [5, 2, 0], "first": [1, 2, 0], "last": [4, 2, 0]}
    for how, values in wanted.items():
        made = Pieced(own, pieces, how)
        assert made.rows().ravel().tolist() == values
        assert made.nbytes == made.rows().nbytes
    assert len({Pieced(own, pieces, how).digest() for how in wanted}) == 4


def test_split(tmp_path: Path) -> None:
    """Pieces are the library's, without the tokens around a text."""
    library = byte_level(ENGLISH, ["<s>"])
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = read_tokenizer(tmp_path, "m")
    (found,) = split(tokenizer, [" cathedral"])
    assert "".join(library.id_to_token(number) for number in found) == "Ġcathedral"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="expected a tokenizer that loads"):
        split(tokenizer, ["x"])


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal names what to install."""
    byte_level(ENGLISH, ["<s>"]).save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(RecipeError, match=r"pip install 'eutectic\[models\]'"):
        split(read_tokenizer(tmp_path, "m"), ["x"])
