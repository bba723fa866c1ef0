"""Which tokens an output has, on vocabularies of a few letters."""

from pathlib import Path

from eutectic.tokens.joined import join
from eutectic.tokens.tokenizer import Tokenizer

EVERYTHING = 100


def tokenizer(tokens: str, added: str = "", roles: str = "") -> Tokenizer:
    """One whose tokens are letters, numbered as written; `roles` are its bos_token and eos_token."""
    parsed = {"model": {"type": "WordLevel"}, "added_tokens": [{"content": token, "special": True} for token in added]}
    config = dict(zip(("bos_token", "eos_token"), roles, strict=False))
    ids = {token: number for number, token in enumerate(tokens) if token != "_"}
    return Tokenizer(tokens, Path(), ids, parsed, config)


A, B, C = tokenizer("SabcX", added="SX"), tokenizer("TbadeY", added="TY"), tokenizer("cba")
ROWS = [EVERYTHING] * 3


def joined(kind: str, *rows: int, owner: int = 0, more: str = "") -> str:
    """The tokens of A, B and C joined, as text."""
    found = join(kind, [A, B, C], rows or ROWS, owner=owner, more=more)
    return "".join(token or "_" for token in found.tokens)


def test_union() -> None:
    """The first keeps its numbers; then the others' tokens in the order of models and of their numbers."""
    assert joined("union") == "SabcXTdeY"
    assert joined("union", owner=1) == "TbadeYScX"


def test_extended() -> None:
    """Of the others only what they added: their pieces would change how text is split."""
    assert joined("extended") == "SabcXTY"


def test_intersection() -> None:
    """What all have, and what the first one's files speak of (its added tokens); numbered anew."""
    assert joined("intersection") == "SabX"


def test_one() -> None:
    """The tokens of one model; and one of nobody's at the end."""
    assert joined("owner", owner=2) == "cba"
    assert joined("owner", owner=2, more="az") == "cbaz"


def test_tokens_without_rows() -> None:
    """A token whose number is beyond the embedding's rows counts as absent."""
    assert joined("union", 4, 5, 3) == "SabcTde"
    assert joined("owner", 4, 6, 3) == "Sabc"


def test_numbers_that_are_left_out_stay_free() -> None:
    """The owner's gaps stay, so that its numbers do."""
    found = join("owner", [tokenizer("a_b")], [3])
    assert found.tokens == ("a", None, "b")
    assert found.unchanged


def test_numbers_in_others() -> None:
    """Where each token stands in another model; -1 where it has none, or no row."""
    found = join("union", [A, B], [EVERYTHING, EVERYTHING])
    assert found.ids_in(B, 6, "exact").tolist() == [-1, 2, 1, -1, -1, 0, 3, 4, 5]
    assert found.ids_in(B, 3, "exact").tolist() == [-1, 2, 1, -1, -1, 0, -1, -1, -1]
    assert not found.unchanged
    assert found.sources == (B,)


def test_special_tokens_by_role() -> None:
    """Normalised, two models' first tokens of texts are one token, so a union has it once."""
    first, second = tokenizer("Sab", "S", roles="S"), tokenizer("Tab", "T", roles="T")
    assert "".join(map(str, join("union", [first, second], [3, 3]).tokens)) == "SabT"
    same = join("union", [first, second], [3, 3], match="normalised")
    assert "".join(map(str, same.tokens)) == "Sab"
    assert same.ids_in(second, 3, "normalised").tolist() == [0, 1, 2]
