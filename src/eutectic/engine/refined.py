"""A merge whose blocks were solved from anchors, as a source: those tensors come from the store, the others from it."""

import threading

import numpy as np

from eutectic.calibrate.refine import Refinement
from eutectic.checkpoint.source import Buffer, Checkpoint
from eutectic.checkpoint.spec import DTYPES, TensorSpec
from eutectic.errors import CalibrationError
from eutectic.stats.store import Results


class Refined:
    """What a refinement makes. Its blocks must have been solved before they are read.

    Args:
        refinement: what is refined, and how.
        reference: how messages call it.
    """

    def __init__(self, refinement: Refinement, reference: str) -> None:
        self.refinement = refinement
        self.name = reference
        under = refinement.under.source
        wide = DTYPES["F32"]
        self.header = {
            name: TensorSpec(name, spec.shape, wide) if name in refinement.refined else spec
            for name, spec in under.header.items()
        }
        self._under = under
        self._lock = threading.Lock()
        self._results: Results | None = None

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with elements `start, start + 1, ...` of a tensor.

        Raises:
            CalibrationError: when its block has not been solved.
        """
        if name not in self.refinement.refined:
            self._under.read_into(name, start, out)
            return
        with self._lock:
            if self._results is None:
                found = self.refinement.blocks()
                if not found.finished:
                    raise CalibrationError(f"{self.name}: its blocks are not solved yet; calibrate the plan first")
                found.names()  # opens its files, once for all threads
                self._results = found
        out[:] = self._results.read(name, start, len(out) // 4).numpy().view(np.uint8)

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Passes the hint on."""
        if name not in self.refinement.refined:
            self._under.will_need(name, start, stop)

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to make the whole tensor once."""
        if name in self.refinement.refined:
            return self.header[name].numel * 4
        return self._under.read_cost(name)

    def fingerprint(self) -> str:
        """The digest of the blocks, which covers models, start and settings."""
        return f"{self._under.fingerprint()}+{self.refinement.blocks().digest}"

    def check_unchanged(self) -> None:
        """Checks that no input changed since it was opened.

        Raises:
            CheckpointError: when one did.
        """
        for each in self._inputs():
            each.source.check_unchanged()

    def close(self) -> None:
        """Closes inputs and results."""
        for each in self._inputs():
            each.source.close()
        if self._results is not None:
            self._results.close()

    def _inputs(self) -> tuple[Checkpoint, ...]:
        return (self.refinement.under, self.refinement.base, *self.refinement.models)


def refined(refinement: Refinement, reference: str) -> Checkpoint:
    """Opens what a refinement makes as a checkpoint, with the config and files of its base."""
    base, every = refinement.base, (refinement.base, *refinement.models, refinement.under)
    hub = tuple(dict.fromkeys(each for checkpoint in every for each in checkpoint.hub))
    return Checkpoint(reference, Refined(refinement, reference), base.folder, base.config, hub=hub)
