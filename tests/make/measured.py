"""What calibration would have found, made up: every model's data is drawn from a seed of its own."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from eutectic.plan.steps import Merged
from eutectic.stats.fold import Accumulated, Calibrated, Norm
from eutectic.stats.store import Measured

#: Rows that a model's made-up data has.
ROWS = 60


def inputs(seed: int, width: int) -> torch.Tensor:
    """The rows that reach a map of some width on one model's data: (ROWS, width)."""
    mixed = torch.randn(width, width, generator=torch.Generator().manual_seed(1000 + seed))
    rows = torch.randn(ROWS, width, generator=torch.Generator().manual_seed(seed))
    return rows @ mixed


def magnitudes(seed: int, shape: Sequence[int]) -> torch.Tensor:
    """Positive numbers in the shape of a tensor, of all sizes."""
    drawn = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
    return (2 * drawn).exp()


class MadeUp:
    """Answers as `engine.measurements.Measurements` does.

    Args:
        data: the seed of each model's data.
        lead: how many inputs come before the models.
    """

    def __init__(self, data: Sequence[int], lead: int) -> None:
        self._data, self._lead = data, lead

    def read(self, found: Calibrated | Norm, site: Merged, start: int, shape: tuple[int, ...]) -> Any:
        """Returns a result as `site.fold` gives it."""
        seeds = [self._data[feed.source - self._lead] for feed in site.models]
        if isinstance(found, Norm):
            return tuple(float(magnitudes(seed, site.spec.shape).norm()) for seed in seeds)
        if found.aligned:
            whole = [magnitudes(seed, site.spec.shape).reshape(-1) for seed in seeds]
            return torch.stack([each[start : start + math.prod(shape)].reshape(shape) for each in whole])
        made = []
        width = math.prod(site.spec.shape[1:]) if len(site.spec.shape) > 1 else site.spec.numel  # of a map, or a scale
        for seed in seeds:
            rows = inputs(seed, width)
            if not isinstance(found, Accumulated):  # a number for every channel
                made.append(Measured.of(magnitudes(seed, (width,)), len(rows)))
                continue
            state = found.init((rows.shape[1],))
            found.update(state, rows)
            made.append(Measured.of(found.finish(state, len(rows)), len(rows)))
        return tuple(made)
