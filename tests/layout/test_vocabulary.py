import json
from pathlib import Path
from typing import Any

import pytest

from eutectic.errors import CheckpointError
from eutectic.layout.vocabulary import compare_tokens, read_tokens, token_sentences, vocabulary_size


def write(folder: Path, **files: Any) -> Path:
    """Writes files named with `__` for the dot: JSON, or text as it is."""
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_tokenizer_json(tmp_path: Path) -> None:
    """Vocabularies as mappings or as scored lists, with the added tokens on top."""
    added = [{"content": "<s>", "id": 9}, {"content": "broken"}]
    write(tmp_path, tokenizer__json={"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": added})
    assert read_tokens(tmp_path) == {"a": 0, "b": 1, "<s>": 9}
    write(tmp_path, tokenizer__json={"model": {"vocab": [["x", -1.5], ["y", -2]]}})
    assert read_tokens(tmp_path) == {"x": 0, "y": 1}


def test_other_files(tmp_path: Path) -> None:
    """vocab.txt, then vocab.json before it, with added_tokens.json; nothing when there is no file."""
    assert read_tokens(tmp_path) is None
    write(tmp_path, vocab__txt="[PAD]\nthe\n")
    assert read_tokens(tmp_path) == {"[PAD]": 0, "the": 1}
    write(tmp_path, vocab__json={"a": 0}, added_tokens__json={"b": 1})
    assert read_tokens(tmp_path) == {"a": 0, "b": 1}


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "\udcff"])
def test_broken_files(tmp_path: Path, text: str) -> None:
    """A broken tokenizer is an error that names the file."""
    (tmp_path / "tokenizer.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        read_tokens(tmp_path)


def test_vocabulary_size() -> None:
    """The config's own number, or its text model's."""
    assert vocabulary_size({"vocab_size": 7, "text_config": {"vocab_size": 8}}) == 7
    assert vocabulary_size({"vision_config": {}, "text_config": {"vocab_size": 8}}) == 8
    assert vocabulary_size({}) is None


def test_compare_tokens() -> None:
    """Tokens of one side are listed by id, and those that moved apart from them."""
    difference = compare_tokens({"a": 0, "b": 1, "c": 2}, {"a": 0, "c": 1, "e": 4, "d": 3})
    assert difference.only_first == ("b",)
    assert difference.only_second == ("d", "e")
    assert difference.moved == ("c",)
    assert difference.sizes == (3, 4)
    assert difference
    assert not compare_tokens({"a": 0}, {"a": 0})


def test_sentences_name_a_few_tokens() -> None:
    """Each differing vocabulary has a sentence against the first that could be read."""
    first = {"a": 0}
    many = first | {f"t{n}": n for n in range(1, 9)}
    (sentence,) = token_sentences(["bare", "base", "same", "code"], [None, first, first, many])
    assert sentence == ("the tokenizers differ: 1 tokens in base, 9 in code; only in code: 't1', 't2', 't3' and 5 more")
