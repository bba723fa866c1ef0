"""Methods on factors, run on updates in memory as a merge would run them."""

from collections.abc import Sequence
from typing import Any

import torch

from eutectic.adapters.factors import Factors
from eutectic.engine.bases import carried_back
from eutectic.engine.bases import parts as parts_of
from eutectic.methods import get
from eutectic.methods.site import Coordinates, Site
from eutectic.numerics.draw import Key

from .sites import Step, merge, resolve


def updates(
    n: int, shape: tuple[int, int] = (7, 9), ranks: Sequence[int] = (3,), seed: int = 0, double: bool = True
) -> tuple[Factors, ...]:
    """Returns n updates whose factors are small multiples of an eighth and whose scales differ."""
    source = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if double else torch.float32
    found = []
    for at in range(n):
        rank = ranks[at % len(ranks)]
        b, a = (
            torch.randint(-16, 17, size, generator=source).to(dtype) / 8
            for size in ((shape[0], rank), (rank, shape[1]))
        )
        found.append(Factors(b, a, (1.0, 0.5, 2.0, 1.5)[at % 4]))
    return tuple(found)


def made(step: Step, parts: Sequence[Factors], seed: int = 0, name: str = "w") -> Any:
    """Returns what a method makes of updates: factors, a dense update, or coordinates."""
    method, values = get(step[0]), resolve(step, len(parts)).values
    per_model = {own.name for own in method.parameters if own.bounds.per_model}
    given = {
        key: torch.tensor(value, dtype=torch.float64) if key in per_model else value for key, value in values.items()
    }
    return method.on_factors(Site(name, len(parts), Key(seed, name), {}, updates=tuple(parts)), **given)


def merged(step: Step, parts: Sequence[Factors], then: Step = ("task_arithmetic", {}), seed: int = 0) -> torch.Tensor:
    """Returns the merged update (d_out, d_in); coordinates are merged by `then` and carried back."""
    found = made(step, parts, seed)
    if isinstance(found, Coordinates):
        double = found.values.dtype == torch.float64
        results = [
            merge(then, list(part), torch.zeros_like(part[0]), double=double, seed=seed) for part in parts_of(found)
        ]
        found = carried_back(found, results)
    return found.dense() if isinstance(found, Factors) else found


def mixed(part: Factors, seed: int = 0) -> Factors:
    """Returns the same update from other factors, (B R)(R^-1 A)."""
    source = torch.Generator().manual_seed(seed + 77)
    turn = torch.randn(part.rank, part.rank, generator=source, dtype=torch.float64).to(part.b.dtype)
    turn = turn + 2 * torch.eye(part.rank, dtype=part.b.dtype)
    return Factors(part.b @ turn, torch.linalg.solve(turn, part.a), part.scale)
