"""What an adapter does, module by module: rank, scale, and the norm of its update."""

import math
from dataclasses import dataclass

from eutectic.adapters.factors import norm
from eutectic.adapters.sources import DeltaSource
from eutectic.adapters.stored import read_experts
from eutectic.checkpoint.source import Checkpoint
from eutectic.errors import CheckpointError


@dataclass(frozen=True)
class ModuleUpdate:
    """One tensor that an adapter changes.

    Attributes:
        name: the tensor.
        shape: its shape.
        kind: `factors`, `dora`, `rotation`, or `full` for what is stored in full (and biases).
        rank: of the factors; 0 without any.
        scale: on their product.
        norm: Frobenius norm of the product with its scale; NaN where the update depends on the base.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    rank: int
    scale: float
    norm: float


@dataclass(frozen=True)
class AdapterInspection:
    """What `inspect_adapter` found.

    Attributes:
        reference: the adapter.
        base_name: the base it was trained on, as its author called it.
        updates: every tensor it changes.
        values: numbers in its file.
    """

    reference: str
    base_name: str | None
    updates: tuple[ModuleUpdate, ...]
    values: int

    @property
    def norm(self) -> float:
        """Norm of all updates whose norm is known together; NaN where none is."""
        known = [each.norm for each in self.updates if not math.isnan(each.norm)]
        return math.sqrt(math.fsum(norm**2 for norm in known)) if known else math.nan


def inspect_updates(checkpoint: Checkpoint) -> AdapterInspection:
    """Reads the factors of an adapter and measures their products, without making them.

    Raises:
        CheckpointError: when it is no adapter, or holds NaN or infinity.
    """
    source = checkpoint.source
    if not isinstance(source, DeltaSource):
        raise CheckpointError(
            f"{checkpoint.reference}: expected an adapter, found a model; `eutectic inspect` shows it"
        )
    adapter = source.adapter
    updates = []
    for name, edit in adapter.edits.items():
        if edit.pair is None:
            kind = "full" if edit.turn is None else "rotation"
            updates.append(ModuleUpdate(name, edit.shape, kind, 0, 1.0, math.nan))
            continue
        parts = read_experts(adapter.file, edit.pair)
        kind = "factors" if edit.magnitude is None else "dora"
        size = math.nan if edit.magnitude is not None else math.hypot(*map(norm, parts))
        updates.append(ModuleUpdate(name, edit.shape, kind, parts[0].rank, edit.pair.scale, size))
    values = sum(spec.numel for spec in adapter.file.header.values())
    return AdapterInspection(checkpoint.reference, adapter.config.base_name, tuple(updates), values)
