"""Opens and inspects models: headers only, and nothing is loaded that headers do not need."""

import os

from eutectic.checkpoint.source import Checkpoint
from eutectic.layout.inspection import Inspection, inspect_checkpoint
from eutectic.plan.inputs import open_input


def open(reference: str | os.PathLike[str], *, pickles: bool = False, offline: bool = False) -> Checkpoint:  # noqa: A001
    """Opens a model, an adapter (as deltas) or `base+adapter`; reads headers only.

    Args:
        reference: a path, `org/name@revision`, or one of these `+adapter`.
        pickles: allow torch pickle files, whose tensors are read and whose code is never run.
        offline: do not download a hub model that is not cached.

    Raises:
        CheckpointError: when there is no such model, or a file breaks a rule of its format.
        MismatchError: when an adapter does not fit its base.
        RecipeError: when the reference cannot be read.
    """
    return open_input(os.fspath(reference), pickles=pickles, offline=offline)


def inspect(reference: str | os.PathLike[str], *, pickles: bool = False, offline: bool = False) -> Inspection:
    """Looks at a model or adapter: names, roles, blocks, shapes, types. Reads headers only.

    Args:
        reference: as `open`.
        pickles: as `open`.
        offline: as `open`.

    Raises:
        CheckpointError: as `open`.
        MismatchError: as `open`.
        RecipeError: as `open`.
    """
    opened = open(reference, pickles=pickles, offline=offline)
    try:
        return inspect_checkpoint(opened)
    finally:
        opened.source.close()


__all__ = ["Checkpoint", "Inspection", "inspect", "open"]
