"""Rows made of pieces: the tokenizer of a model that lacks a token splits it, and the pieces' rows are combined."""

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eutectic.checkpoint.rounding import convert
from eutectic.checkpoint.spec import DTYPES
from eutectic.checkpoint.views import digest_of
from eutectic.errors import CheckpointError, RecipeError
from eutectic.tokens.rows import Given
from eutectic.tokens.tokenizer import Tokenizer


def split(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Returns the numbers of each text's pieces, special tokens around texts left out.

    Raises:
        CheckpointError: when the tokenizer cannot be loaded.
        RecipeError: when the `tokenizers` library is not installed.
    """
    try:
        from tokenizers import Tokenizer as Library
    except ImportError as error:
        raise RecipeError(
            "the fill subword splits text, which takes the tokenizers library; pip install 'eutectic[models]'"
        ) from error
    path = tokenizer.folder / "tokenizer.json"
    try:
        library = Library.from_file(str(path))
        return [tuple(library.encode(text, add_special_tokens=False).ids) for text in texts]
    except Exception as error:
        raise CheckpointError(f"{path}: expected a tokenizer that loads, found {error}; replace it") from error


class Pieced:
    """Rows of tokens as combinations of rows of their pieces.

    Args:
        own: the model's tensor.
        pieces: rows of each token's pieces, in order; a token of none has zeros.
        how: `mean`, `sum`, `first` or `last`.
    """

    def __init__(self, own: Given, pieces: Sequence[tuple[int, ...]], how: str) -> None:
        self.own, self.pieces, self.how = own, tuple(pieces), how
        self._lock = threading.Lock()
        self._rows: NDArray[np.float32] | None = None

    @property
    def _width(self) -> int:
        spec = self.own.source.header[self.own.name]
        return spec.numel // max(1, spec.shape[0])

    @property
    def nbytes(self) -> int:
        """What the rows hold, in bytes."""
        return len(self.pieces) * self._width * 4

    def rows(self) -> NDArray[np.float32]:
        """Returns the rows, shape (tokens, width)."""
        with self._lock:
            if self._rows is None:
                self._rows = np.stack([self._row(pieces) for pieces in self.pieces])
            return self._rows

    def _row(self, pieces: tuple[int, ...]) -> NDArray[np.float32]:
        used = {"first": pieces[:1], "last": pieces[-1:]}.get(self.how, pieces)
        spec, total = self.own.source.header[self.own.name], np.zeros(self._width)
        raw = np.empty(self._width * spec.dtype.bits // 8, np.uint8)
        for piece in used:
            self.own.source.read_into(self.own.name, piece * self._width, raw)
            total += convert(raw, spec.dtype, DTYPES["F64"]).view(np.float64)
        return np.asarray(total / max(1, len(used)) if self.how == "mean" else total, np.float32)

    def digest(self) -> str:
        """Returns a digest of the pieces and of what is read."""
        return digest_of("pieces", self.how, repr(self.pieces), self.own.name, self.own.source.fingerprint())
