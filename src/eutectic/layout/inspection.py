"""What a checkpoint holds, from its header."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.spec import TensorSpec
from eutectic.layout.infer import infer
from eutectic.layout.layout import Layout


@dataclass(frozen=True)
class Inspection:
    """A checkpoint seen from outside.

    Attributes:
        reference: what the user called it.
        header: its tensors.
        layout: what their names mean.
        fingerprint: changes when its content may have.
        deltas: it is an adapter: its tensors are differences.
    """

    reference: str
    header: Mapping[str, TensorSpec]
    layout: Layout
    fingerprint: str
    deltas: bool

    def describe(self) -> dict[str, Any]:
        """Returns it as plain data."""
        places = self.layout.places
        return {
            "reference": self.reference,
            "deltas": self.deltas,
            "fingerprint": self.fingerprint,
            "stacks": dict(self.layout.stacks),
            "tied": [list(group) for group in self.layout.tied],
            "tensors": {
                name: {
                    "dtype": str(spec.dtype),
                    "shape": list(spec.shape),
                    "bytes": spec.nbytes,
                    "role": places[name].role.value,
                    "block": places[name].block,
                    "depth": round(places[name].depth, 4),
                }
                for name, spec in self.header.items()
            },
        }


def inspect_checkpoint(checkpoint: Checkpoint) -> Inspection:
    """Looks at an open checkpoint; reads headers only."""
    header = checkpoint.source.header
    layout = infer(header, checkpoint.config)
    return Inspection(checkpoint.reference, header, layout, checkpoint.source.fingerprint(), checkpoint.deltas)
