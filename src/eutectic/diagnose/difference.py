"""How two checkpoints differ, tensor by tensor, in bounded memory."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.spec import TensorSpec
from eutectic.engine.reader import read_rows
from eutectic.engine.sweep import share
from eutectic.numerics import kernels
from eutectic.numerics.kernels import GRAIN

_SLICE = 8 * GRAIN


@dataclass(frozen=True)
class TensorDifference:
    """One tensor in two checkpoints.

    Attributes:
        name: the tensor.
        distance: Frobenius norm of the difference.
        relative: distance over the norm of the first; infinite when that is zero and the distance is not.
        cosine: of the angle between the two, flattened; 1 when both are zero.
        why: why it could not be compared; the numbers are then NaN.
    """

    name: str
    distance: float
    relative: float
    cosine: float
    why: str = ""


def compare_checkpoints(first: Checkpoint, second: Checkpoint, threads: int) -> list[TensorDifference]:
    """Compares all tensors of two checkpoints; most changed first, then those that cannot be compared.

    Raises:
        CheckpointError: when a file cannot be read.
    """
    headers = (first.source.header, second.source.header)
    names = list(dict.fromkeys([*headers[0], *headers[1]]))
    found: list[TensorDifference] = []
    sums: dict[str, list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]] = {}
    spans: list[tuple[str, int, int]] = []
    for name in names:
        specs = (headers[0].get(name), headers[1].get(name))
        why = _incomparable(specs, (first.reference, second.reference))
        if why:
            found.append(TensorDifference(name, math.nan, math.nan, math.nan, why))
            continue
        numel = headers[0][name].numel
        sums[name] = [np.zeros(4)] * max(1, -(-numel // _SLICE))
        spans += [(name, at, min(numel, at + _SLICE)) for at in range(0, max(1, numel), _SLICE)]

    def measure(_: int, span: tuple[str, int, int]) -> None:
        name, start, stop = span
        rows = read_rows([(first, headers[0][name]), (second, headers[1][name])], start, stop)
        products = kernels.gram(rows, True).sum(0)
        change = kernels.energy(rows, False).sum(0)
        sums[name][start // _SLICE] = np.array([products[0, 0], products[1, 1], products[0, 1], change[0]])

    share(spans, list(range(threads)), measure)
    for name, parts in sums.items():
        own, other, between, change = (math.fsum(part[k] for part in parts) for k in range(4))
        distance = math.sqrt(change)
        relative = distance / math.sqrt(own) if own > 0 else (math.inf if distance else 0.0)
        found.append(TensorDifference(name, distance, relative, _cosine(own, other, between)))
    return sorted(found, key=_order)


def _cosine(own: float, other: float, between: float) -> float:
    """Of the angle between two vectors, from their squared norms and their product."""
    if own == 0 or other == 0:
        return float(own == other)
    cosine = between / math.sqrt(own) / math.sqrt(other)
    return cosine if math.isnan(cosine) else max(-1.0, min(1.0, cosine))


def _order(each: TensorDifference) -> tuple[bool, float, str]:
    """Most changed first; not a number is more than any number."""
    return bool(each.why), -math.inf if math.isnan(each.relative) else -each.relative, each.name


def _incomparable(specs: Sequence[TensorSpec | None], names: tuple[str, str]) -> str:
    one, other = specs
    if one is None or other is None:
        return f"only in {names[0] if other is None else names[1]}"
    if one.shape != other.shape:
        return f"shapes differ: {list(one.shape)} and {list(other.shape)}"
    kinds = {str(spec.dtype) for spec in (one, other) if not spec.dtype.mergeable}
    return f"{', '.join(sorted(kinds))} is not compared as numbers" if kinds else ""
