"""mergekit's `tokenizer_source`, `tokenizer` and `chat_template`, as our `vocabulary` and `output`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eutectic.errors import nearest
from eutectic.recipe.document import DocumentError
from eutectic.recipe.mergekit.grammar import Document, Token
from eutectic.recipe.model import BASE

#: The chat templates that mergekit knows by name.
TEMPLATES = ("auto", "alpaca", "chatml", "exaone", "llama3", "mistral")


@dataclass
class Words:
    """What a document says of vocabularies, as keys of a recipe and of its output."""

    recipe: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)


def write_words(document: Document, names: Mapping[str, str], base: str | None) -> Words:
    """Writes them.

    Args:
        document: what was read.
        names: what the recipe calls its models, by reference.
        base: the recipe's base.

    Raises:
        DocumentError: when it names no tokenizer, or a model that is not merged.
    """
    words = Words()
    tokenizer = document.tokenizer
    if tokenizer is not None:
        if tokenizer.source == BASE and base is None:
            raise DocumentError(tokenizer.line, "the tokenizer of base needs a base; add base_model")
        own = _own(tokenizer.source, names, base)
        vocabulary: dict[str, Any] = {"donor": tokenizer.source} if own is None else {"tokenizer": own}
        if tokenizer.tokens:
            vocabulary["tokens"] = {text: _token(each, names, base) for text, each in tokenizer.tokens.items()}
        if tokenizer.multiple is not None:
            vocabulary["pad_to_multiple_of"] = tokenizer.multiple
        words.recipe["vocabulary"] = vocabulary
    template = document.chat_template
    if template is not None:
        if template not in TEMPLATES and "{" not in template:
            text = f"expected Jinja text or one of {', '.join(TEMPLATES)}, found {template[:60]!r}"
            raise DocumentError(document.lines["chat_template"], text + nearest(template[:60], TEMPLATES))
        words.output["chat_template"] = template
    return words


def _own(source: str, names: Mapping[str, str], base: str | None) -> str | None:
    """What the recipe calls a tokenizer's source; None when it is a model beside the merged ones."""
    if source in ("union", BASE):
        return source
    return BASE if source == base else names.get(source)


def _token(token: Token, names: Mapping[str, str], base: str | None) -> Any:
    """Where a token's row comes from; without a source it is made by the fill rule, as that of any token."""
    force = {"force": True} if token.force else {}
    if token.source == "zero":
        return {"zero": True, **force} if force else "zero"
    if token.source is None:
        raise DocumentError(token.line, "a token without a source is added to no tokenizer here; name its source")
    own = _own(token.source, names, base)
    if own is None:
        text = f"expected the row of a token from a merged model, found {token.source}{nearest(token.source, names)}"
        raise DocumentError(token.line, text)
    named = {"token" if isinstance(token.token, str) else "id": token.token} if token.token is not None else {}
    return {"model": own, **named, **force} if named or force else own
