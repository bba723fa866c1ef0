"""Tokenizers read as JSON, and written with another vocabulary: what is written loads and splits text as it should."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Library

from eutectic.errors import CheckpointError
from eutectic.tokens.tokenizer import Tokenizer, read_tokenizer, rewritten
from tests.make.vocabularies import ENGLISH, SEA, byte_level, unigram, word_piece

TEXT = "the birds sat on the mat and sing"


def saved(folder: Path, tokenizer: Library, config: dict[str, object] | None = None) -> Tokenizer:
    """Writes a tokenizer's files and reads them."""
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return read_tokenizer(folder, folder.name)


def loaded(files: dict[str, bytes]) -> Library:
    """Loads what was written with the library."""
    return Library.from_str(files["tokenizer.json"].decode())


def by_id(tokenizer: Tokenizer) -> list[str | None]:
    """Returns the tokens in order."""
    return [*sorted(tokenizer.tokens, key=lambda token: tokenizer.tokens[token])]


def test_what_is_read(tmp_path: Path) -> None:
    """Kind, roles, added tokens, and the tokens its own files speak of."""
    bert = saved(tmp_path / "bert", word_piece(ENGLISH), {"cls_token": "[CLS]", "pad_token": {"content": "[PAD]"}})
    assert bert.kind == "WordPiece"
    assert bert.roles == {"cls_token": "[CLS]", "pad_token": "[PAD]"}
    assert bert.fixed == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    assert saved(tmp_path / "t5", unigram(ENGLISH)).kind == "Unigram"
    assert saved(tmp_path / "gpt", byte_level(ENGLISH, ["<s>"])).kind == "BPE"


def test_the_same_token_in_three_spellings(tmp_path: Path) -> None:
    """Byte-level, word-marked and WordPiece spellings of one piece are the same; special tokens go by their role."""
    gpt = saved(tmp_path / "gpt", byte_level(ENGLISH, ["<s>"]), {"bos_token": "<s>"})
    t5 = saved(tmp_path / "t5", unigram(ENGLISH), {"bos_token": "</s>"})
    bert = saved(tmp_path / "bert", word_piece(ENGLISH), {})
    assert gpt.key("Ġthe", "normalised") == t5.key("▁the", "normalised") == bert.key("the", "normalised")
    assert gpt.key("he", "normalised") == t5.key("he", "normalised") == bert.key("##he", "normalised") == (False, "he")
    assert gpt.key("Ã©", "normalised") == t5.key("é", "normalised")
    assert gpt.key("<s>", "normalised") == t5.key("</s>", "normalised") == ("bos_token",)
    assert gpt.key("Ġthe", "exact") != t5.key("▁the", "exact")


@pytest.mark.parametrize("make", [byte_level, word_piece, unigram])
def test_rewritten_as_it_was(tmp_path: Path, make: object) -> None:
    """The same vocabulary gives a tokenizer that splits every text as before."""
    library = byte_level(ENGLISH, ["<s>"]) if make is byte_level else make(ENGLISH)  # type: ignore[operator]
    library.add_tokens([AddedToken("<tool>", normalized=False)])
    tokenizer = saved(tmp_path / "a", library)
    again = loaded(rewritten(tokenizer, by_id(tokenizer)))
    assert again.get_vocab() == library.get_vocab()
    for text in (TEXT, "<tool>the cat<tool>", "zebra é"):
        assert again.encode(text).ids == library.encode(text).ids
        assert again.decode(again.encode(text).ids) == library.decode(library.encode(text).ids)


@pytest.mark.parametrize("make", [byte_level, word_piece, unigram])
def test_fewer_tokens(tmp_path: Path, make: object) -> None:
    """Without a piece, text is split into others; numbers close up, and special tokens around texts follow."""
    library = byte_level(ENGLISH, ["<s>"]) if make is byte_level else make(ENGLISH)  # type: ignore[operator]
    tokenizer = saved(tmp_path / "a", library)
    gone = next(token for token in library.encode("the cat").tokens if len(token) > 2 and token not in tokenizer.fixed)
    kept = [token for token in by_id(tokenizer) if token != gone]
    kept = [*kept[3:], *kept[:3]]  # and the special ones elsewhere
    again = loaded(rewritten(tokenizer, kept))
    assert again.get_vocab() == {token: number for number, token in enumerate(kept)}
    found = again.encode("the cat")
    assert gone not in found.tokens
    assert all(kept[number] == token for number, token in zip(found.ids, found.tokens, strict=True))
    first, now = library.encode("the cat").tokens[0], found.tokens[0]
    if first.startswith(("[", "<")):
        assert now == first


def test_merges_of_another(tmp_path: Path) -> None:
    """New pieces come with their merges, behind the owner's: text the owner knows is split as before."""
    ours, theirs = byte_level(ENGLISH, ["<s>"]), byte_level(SEA, ["<s>", "<tool>"])
    first, second = saved(tmp_path / "a", ours), saved(tmp_path / "b", theirs)
    extra = [token for token in by_id(second) if token not in first.tokens]
    both = loaded(rewritten(first, [*by_id(first), *extra], [second]))
    assert both.get_vocab() == {token: number for number, token in enumerate([*by_id(first), *extra])}
    assert both.encode("<tool> birds").tokens == ["<s>", "<tool>", *theirs.encode(" birds").tokens[1:]]
    assert both.encode("the cat sat").tokens == ours.encode("the cat sat").tokens
    for text in (TEXT, "waves over the evening é"):
        assert both.decode(both.encode(text).ids, skip_special_tokens=True) == text


def test_unigram_of_two(tmp_path: Path) -> None:
    """Pieces of another Unigram tokenizer keep their scores, so they are found in text."""
    first, second = saved(tmp_path / "a", unigram(ENGLISH)), saved(tmp_path / "b", unigram(SEA))
    extra = [token for token in by_id(second) if token not in first.tokens]
    both = loaded(rewritten(first, [*by_id(first), *extra], [second]))
    assert set(both.encode("birds sing").tokens) & set(extra)
    assert both.decode(both.encode("birds sat").ids) == "birds sat"


def test_a_token_of_nobody_is_added(tmp_path: Path) -> None:
    """It is found in text before the model sees it."""
    tokenizer = saved(tmp_path / "a", byte_level(ENGLISH, ["<s>"]))
    again = loaded(rewritten(tokenizer, [*by_id(tokenizer), "<new>"]))
    assert again.encode("the<new>cat").tokens.count("<new>") == 1


def test_added_tokens_of_the_config(tmp_path: Path) -> None:
    """tokenizer_config.json lists added tokens under their new numbers."""
    config = {"added_tokens_decoder": {"0": {"content": "<s>"}}, "bos_token": "<s>"}
    tokenizer = saved(tmp_path / "a", byte_level(ENGLISH, ["<s>"]), config)
    tokens = by_id(tokenizer)
    said = json.loads(rewritten(tokenizer, [*tokens[1:], tokens[0]])["tokenizer_config.json"])
    assert said["added_tokens_decoder"][str(len(tokens) - 1)]["content"] == "<s>"
    assert said["bos_token"] == "<s>"


def test_refusals(tmp_path: Path) -> None:
    """No tokenizer, sentencepiece alone, an old form that cannot be rewritten, gaps in Unigram."""
    with pytest.raises(CheckpointError, match=r"bare: expected a tokenizer\.json"):
        read_tokenizer(None, "bare")
    (tmp_path / "spm").mkdir()
    (tmp_path / "spm" / "tokenizer.model").write_bytes(b"\0")
    with pytest.raises(CheckpointError, match=r"only in tokenizer\.model, which is not read; write tokenizer\.json"):
        read_tokenizer(tmp_path / "spm", "spm")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "vocab.json").write_text('{"a": 0}')
    old = read_tokenizer(tmp_path / "old", "old")
    assert old.tokens == {"a": 0}
    with pytest.raises(CheckpointError, match=r"old: expected tokenizer\.json"):
        rewritten(old, ["a", "b"])
    t5 = saved(tmp_path / "t5", unigram(ENGLISH))
    with pytest.raises(CheckpointError, match="without gaps"):
        rewritten(t5, [*by_id(t5), None, "x"])
