"""Rows predicted for tokens a model lacks, from what it shares with a donor; read and computed on first use, once."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eutectic.checkpoint.rounding import convert
from eutectic.checkpoint.source import Source
from eutectic.checkpoint.spec import DTYPES
from eutectic.checkpoint.views import digest_of
from eutectic.numerics.tensors import Tensor, load, one_thread, torch
from eutectic.tokens.rows import Given, Ids

#: Targets, the shared tokens' rows in the donor, and in the model -> the missing rows; all float64.
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Guide:
    """A donor's part: which of its tokens are shared, and which the model lacks.

    Attributes:
        donor: its tensor.
        there: rows of the shared tokens in the donor, in the order of its ids.
        here: their rows in the model.
        targets: the donor's rows of the missing tokens.
    """

    donor: Given
    there: Ids
    here: Ids
    targets: Ids


class Predicted:
    """The rows of one tensor of one model that donors predict, guide after guide.

    Args:
        own: the model's tensor.
        guides: the donors' parts.
        predict: the rule.
        rule: its name and options, for the digest.
    """

    def __init__(self, own: Given, guides: Sequence[Guide], predict: Predict, rule: str) -> None:
        self.own, self.guides, self.predict, self.rule = own, tuple(guides), predict, rule
        self._lock = threading.Lock()
        self._rows: NDArray[np.float32] | None = None

    def rows(self) -> NDArray[np.float32]:
        """Returns the predicted rows, shape (predicted, width)."""
        with self._lock:
            if self._rows is None:
                load()
                with one_thread():
                    parts = [self._of(guide) for guide in self.guides]
                self._rows = np.concatenate(parts) if len(parts) > 1 else parts[0]
            return self._rows

    def _of(self, guide: Guide) -> NDArray[np.float32]:
        there = _matrix(guide.donor.source, guide.donor.name, guide.there)
        here = _matrix(self.own.source, self.own.name, guide.here)
        targets = _matrix(guide.donor.source, guide.donor.name, guide.targets)
        return np.asarray(self.predict(targets, there, here).numpy(), np.float32)

    @property
    def nbytes(self) -> int:
        """What computing and keeping the rows holds at most, in bytes; twice the matrices, for what solving copies."""
        own = _width(self.own)
        kept = sum(len(guide.targets) for guide in self.guides) * own * 4
        work = (
            len(guide.there) * (_width(guide.donor) + own) + len(guide.targets) * (_width(guide.donor) + own)
            for guide in self.guides
        )
        return kept + 2 * 8 * max(work, default=0)

    def digest(self) -> str:
        """Returns a digest of the rule and of everything it reads."""
        parts = [self.rule, self.own.name, self.own.source.fingerprint()]
        for guide in self.guides:
            tables = b"|".join(table.tobytes() for table in (guide.there, guide.here, guide.targets))
            parts += [guide.donor.name, guide.donor.source.fingerprint(), tables.hex()]
        return digest_of(*parts)


def _width(given: Given) -> int:
    spec = given.source.header[given.name]
    return spec.numel // max(1, spec.shape[0])


def _matrix(source: Source, name: str, ids: Ids) -> Tensor:
    """Reads rows of a tensor as float64."""
    spec = source.header[name]
    width = spec.numel // spec.shape[0]
    out = np.empty((len(ids), width))
    raw = np.empty(width * spec.dtype.bits // 8, np.uint8)
    for place, row in enumerate(ids):
        source.read_into(name, int(row) * width, raw)
        out[place] = convert(raw, spec.dtype, DTYPES["F64"]).view(np.float64)
    return torch.from_numpy(out)
