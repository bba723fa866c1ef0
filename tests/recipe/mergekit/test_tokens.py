import pytest

from eutectic.recipe.document import DocumentError, compose
from eutectic.recipe.mergekit.grammar import Document, read_document
from eutectic.recipe.mergekit.tokens import write_words

NAMES = {"org/a": "org/a", "base": "model base"}


def read(text: str) -> Document:
    """Reads a document with these lines on tokens."""
    (top,), _ = compose("merge_method: linear\nmodels: [{model: org/a}]\n" + text)
    return read_document(top)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("tokenizer_source: union", {"tokenizer": "union"}),
        ("tokenizer_source: base", {"tokenizer": "base"}),
        ("tokenizer_source: org/b", {"tokenizer": "base"}),
        ("tokenizer_source: org/a", {"tokenizer": "org/a"}),
        ("tokenizer_source: org/else", {"donor": "org/else"}),
        ("tokenizer: {pad_to_multiple_of: 8}", {"tokenizer": "union", "pad_to_multiple_of": 8}),
    ],
)
def test_sources(text: str, expected: dict[str, object]) -> None:
    """Of all, of the base, of a model, or of one that is not merged."""
    assert write_words(read(text), NAMES, "org/b").recipe == ({"vocabulary": expected} if expected else {})


def test_tokens() -> None:
    """Rows of single tokens."""
    text = (
        "tokenizer:\n  tokens:\n    a: {source: org/b}\n    b: {source: {kind: zero}}\n"
        "    c: {source: {kind: model_token, model: org/a, token: x}, force: true}\n"
        "    d: {source: {kind: model_token, model: org/a, token_id: 7}}\n    e: {source: {kind: zero}, force: true}\n"
    )
    assert write_words(read(text), NAMES, "org/b").recipe["vocabulary"]["tokens"] == {
        "a": "base",
        "b": "zero",
        "c": {"model": "org/a", "token": "x", "force": True},
        "d": {"model": "org/a", "id": 7},
        "e": {"zero": True, "force": True},
    }


def test_templates() -> None:
    """By name, or as Jinja text."""
    assert write_words(read("chat_template: chatml"), NAMES, None).output == {"chat_template": "chatml"}
    assert write_words(read("chat_template: '{{ x }}'"), NAMES, None).output == {"chat_template": "{{ x }}"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tokenizer_source: base", "needs a base"),
        ("tokenizer: {tokens: {a: {source: org/x}}}", "from a merged model"),
        ("tokenizer: {tokens: {a: {}}}", "name its source"),
        ("chat_template: chatlm", "did you mean 'chatml'"),
    ],
)
def test_refusals(text: str, says: str) -> None:
    """What names nothing."""
    with pytest.raises(DocumentError, match=says):
        write_words(read(text), NAMES, None)
