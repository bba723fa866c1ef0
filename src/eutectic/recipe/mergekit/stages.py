"""Several documents, some named and used by others as models: one recipe, with the named ones as its stages."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eutectic.recipe.document import DocumentError
from eutectic.recipe.mergekit.grammar import Document
from eutectic.recipe.mergekit.translate import Remark, Translation, translate

#: As deep as stages may stand within one another, and as many as there may be, each as often as it is used.
_DEEPEST, _MOST = 16, 256


def join(documents: Sequence[Document], *, mend: bool) -> Translation:
    """Writes documents as one recipe: of the unnamed one, or of the only one that no other uses.

    Raises:
        DocumentError: when a document cannot be written, two have one name, none or several are last, or they go in
            a circle.
    """
    return _Joiner(documents, mend).run()


class _Joiner:
    def __init__(self, documents: Sequence[Document], mend: bool) -> None:
        self.mend = mend
        self.named: dict[str, Document] = {}
        unnamed = [document for document in documents if document.name is None]
        for document in documents:
            if document.name is not None and document.name in self.named:
                raise DocumentError(document.lines["name"], f"two merges are called {document.name}; rename one")
            if document.name is not None:
                self.named[document.name] = document
        if len(unnamed) > 1:
            raise DocumentError(unnamed[1].line, "expected one merge without a name at most, found two; name one")
        self.last = unnamed[0] if unnamed else self._unused()
        self.remarks: list[Remark] = []
        self.written: dict[str, dict[str, Any]] = {}
        self.sizes: dict[str, int] = {}

    def run(self) -> Translation:
        """The recipe of the last document, the others within."""
        recipe = self._recipe(self.last, ())
        idle = [document for name, document in self.named.items() if name not in self.written]
        for document in idle:
            if document is not self.last:
                text = f"the merge {document.name} is used by none that leads to the output, and is left out"
                self.remarks.append(Remark(document.line, text))
        return Translation(recipe, sorted(dict.fromkeys(self.remarks)))

    def _unused(self) -> Document:
        used = {name for document in self.named.values() for name in self._uses(document)}
        free = [document for name, document in self.named.items() if name not in used]
        if len(free) == 1:
            return free[0]
        line = next(iter(self.named.values())).line
        found = ", ".join(str(document.name) for document in free) or "none"
        raise DocumentError(line, f"expected one merge that no other uses, found {found}; leave the last one unnamed")

    def _uses(self, document: Document) -> list[str]:
        """The other documents that a document names as models."""
        found = [document.base] if document.base is not None else []
        for module in document.modules:
            for piece in module.pieces:
                found += [piece.base] if piece.base is not None else []
                found += [source.model for source in piece.sources]
        return [name for name in dict.fromkeys(found) if name in self.named and self.named[name] is not document]

    def _recipe(self, document: Document, above: tuple[str, ...]) -> dict[str, Any]:
        if len(above) > _DEEPEST:
            raise DocumentError(document.line, f"expected at most {_DEEPEST} merges one upon the other, found more")
        stages: dict[str, dict[str, Any]] = {}
        for name in self._uses(document):
            if name in above:
                circle = " -> ".join([*above[above.index(name) :], name])
                raise DocumentError(document.line, f"merges cannot use one another in a circle: {circle}")
            if name not in self.written:
                self.written[name] = self._stage(self.named[name], (*above, name))
            stages[name] = self.written[name]
        size = sum(self.sizes[name] for name in stages)
        if size > _MOST:
            raise DocumentError(document.line, f"expected at most {_MOST} merges within a merge, found {size}")
        if document.name is not None:
            self.sizes[document.name] = 1 + size
        found = translate(document, stages, mend=self.mend)
        self.remarks += found.remarks
        return found.recipe

    def _stage(self, document: Document, above: tuple[str, ...]) -> dict[str, Any]:
        """A document's recipe as a stage, which hands its tensors on unrounded and writes nothing."""
        if document.chat_template is not None:
            text = "the chat template of a merge in between has no effect"
            self.remarks.append(Remark(document.lines["chat_template"], text))
            document = replace(document, chat_template=None)
        recipe = self._recipe(document, above)
        return {key: value for key, value in recipe.items() if key != "output"}
