"""Reads documents of mergekit's, with flags of its command line, to a recipe of ours and what is to be said of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eutectic.errors import RecipeError
from eutectic.recipe.document import DocumentError, Node, at
from eutectic.recipe.mergekit import others
from eutectic.recipe.mergekit.flags import read_flags
from eutectic.recipe.mergekit.grammar import Document, read_document
from eutectic.recipe.mergekit.stages import join

#: More documents in one file are a mistake or an attack.
_MOST = 64


@dataclass(frozen=True)
class Found:
    """What was read.

    Attributes:
        recipe: ours, as plain data.
        said: traps reproduced and what has no effect, one line each.
        mended: the same for the mended recipe: what it changes, and what has no effect.
    """

    recipe: dict[str, Any]
    said: tuple[str, ...]
    mended: tuple[str, ...]


def recognise(tops: Sequence[Node]) -> bool:
    """Whether documents are mergekit's, or of one of its other tools."""
    return any(_names_method(top) or others.recognise(top) is not None for top in tops)


def _names_method(top: Node) -> bool:
    return isinstance(top.value, dict) and "merge_method" in top.value


def read(
    tops: Sequence[Node], errors: Sequence[DocumentError], name: str, flags: Sequence[str], *, mend: bool = False
) -> Found:
    """Reads documents and flags.

    Args:
        tops: the documents.
        errors: what is wrong with them as text.
        name: the file's name, for messages.
        flags: of mergekit's command line.
        mend: leave the traps out.

    Raises:
        RecipeError: with file and line, when a document is wrong or for another tool, or a flag is refused.
    """
    if errors:
        raise RecipeError("\n".join(f"{at(name, error.line)}: {error.text}" for error in errors[:100]))
    said = read_flags(flags)
    documents = _documents(tops, name)
    try:
        found = join(documents, mend=mend)
    except DocumentError as error:
        raise RecipeError(f"{at(name, error.line)}: {error.text}") from None
    recipe = found.recipe | said.recipe
    recipe["output"] = recipe.get("output", {}) | said.output
    remarks = [(f"{at(name, remark.line)}: ", remark) for remark in found.remarks]
    return Found(
        recipe,
        (*(f"{where}{remark.said}" for where, remark in remarks if remark.said), *said.remarks),
        (*(f"{where}{remark.mended or remark.said}" for where, remark in remarks), *said.remarks),
    )


def _documents(tops: Sequence[Node], name: str) -> list[Document]:
    """Reads each document; what is wrong with any is told together."""
    filled = [top for top in tops if top.value is not None]
    documents, problems = [], []
    if len(filled) > _MOST:
        text = f"expected at most {_MOST} merges in a file, found {len(filled)}"
        problems.append(DocumentError(filled[_MOST].line, text))
    for top in filled:
        other = others.recognise(top)
        try:
            if other is not None:
                raise DocumentError(top.line, other)
            if not _names_method(top):
                raise DocumentError(top.line, "expected the key merge_method in every document, found none")
            documents.append(read_document(top))
        except DocumentError as error:
            problems.append(error)
    if problems:
        raise RecipeError("\n".join(f"{at(name, error.line)}: {error.text}" for error in problems))
    return documents
