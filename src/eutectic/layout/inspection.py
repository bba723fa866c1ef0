"""What a checkpoint holds, from its header."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.spec import TensorSpec
from eutectic.checkpoint.tasks import open_task_file, task_files
from eutectic.layout.infer import infer
from eutectic.layout.layout import Layout


@dataclass(frozen=True)
class TaskParts:
    """What an output holds for one task: kinds such as `emr.mask`, for how many tensors, in how many bytes."""

    kinds: tuple[str, ...]
    tensors: int
    nbytes: int


@dataclass(frozen=True)
class Inspection:
    """A checkpoint seen from outside.

    Attributes:
        reference: what the user called it.
        header: its tensors.
        layout: what their names mean.
        fingerprint: changes when its content may have.
        deltas: it is an adapter: its tensors are differences.
        tasks: what was made for each task beside the merged model, by the task's name.
    """

    reference: str
    header: Mapping[str, TensorSpec]
    layout: Layout
    fingerprint: str
    deltas: bool
    tasks: Mapping[str, TaskParts]

    def describe(self) -> dict[str, Any]:
        """Returns it as plain data."""
        places = self.layout.places
        return {
            "reference": self.reference,
            "deltas": self.deltas,
            "fingerprint": self.fingerprint,
            "stacks": dict(self.layout.stacks),
            "tied": [list(group) for group in self.layout.tied],
            "tasks": {name: asdict(parts) for name, parts in self.tasks.items()},
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
    fingerprint = checkpoint.source.fingerprint()
    return Inspection(checkpoint.reference, header, layout, fingerprint, checkpoint.deltas, _tasks(checkpoint))


def _tasks(checkpoint: Checkpoint) -> dict[str, TaskParts]:
    found = {}
    for path in [] if checkpoint.folder is None else task_files(checkpoint.folder):
        with closing(open_task_file(path)) as task:
            found[task.name] = TaskParts(task.extras, len(task.made), task.nbytes)
    return found
