"""What calibration found, as the methods of a site read it: the one place where its results enter a merge."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from eutectic.numerics.tensors import Tensor, torch
from eutectic.plan.demands import held_under, measured_at, read_by, taken
from eutectic.plan.steps import Calibration, Demand, Merged
from eutectic.stats.fold import Calibrated, Norm
from eutectic.stats.store import Results, Store


class Measurements:
    """The results that the sites of a plan read.

    Args:
        results: by statistic and position of the model among the inputs.
    """

    def __init__(self, results: Mapping[tuple[Calibrated, int], Results]) -> None:
        self._results = results
        self._norms: dict[Norm, dict[int, float]] = {}

    def settle(self, sites: Sequence[Merged]) -> None:
        """Adds up the norms over all sites that read them."""
        sums: dict[Norm, dict[int, list[float]]] = {}
        for site in sites:
            found = {each for step in site.steps for each in read_by(site, step).values()}
            for norm in found:
                if not isinstance(norm, Norm):
                    continue
                for feed in site.models:
                    name = held_under(site, feed, norm.over)
                    energy = self._results[norm.over, feed.source].measured(name).energy
                    sums.setdefault(norm, {}).setdefault(feed.source, []).append(energy)
        self._norms = {norm: {n: math.sqrt(math.fsum(parts)) for n, parts in by.items()} for norm, by in sums.items()}

    def lacks(self, site: Merged) -> frozenset[int]:
        """Returns which of a site's steps read a result that does not exist, as nothing passed through its tensor.

        Nor does one in the shape of the weights where a model has fewer of them (rows of a vocabulary) than the site.
        """
        return frozenset(
            position
            for position, step in enumerate(site.steps)
            for statistic in map(taken, read_by(site, step).values())
            for feed in site.models
            if held_under(site, feed, statistic) not in self._results[statistic, feed.source]
            or (statistic.aligned and measured_at(site, feed, statistic).numel != site.spec.numel)
        )

    def read(self, found: Calibrated | Norm, site: Merged, start: int, shape: tuple[int, ...]) -> Any:
        """Returns a result as `site.fold` gives it.

        A norm is a tuple of n numbers. What is aligned is the slice of it that belongs to the slice of weights,
        (n, *shape). Anything else is a tuple of n `Measured`, each read when it is asked for.
        """
        if isinstance(found, Norm):
            return tuple(self._norms[found][feed.source] for feed in site.models)
        held = [(self._results[found, feed.source], held_under(site, feed, found)) for feed in site.models]
        if not found.aligned:
            return tuple(results.measured(name) for results, name in held)
        rows: list[Tensor] = [results.read(name, start, math.prod(shape)).reshape(shape) for results, name in held]
        return torch.stack(rows)


def measurements(demands: Sequence[Demand], calibration: Calibration | None) -> Measurements | None:
    """Opens the results that a plan's sites read; None when they read none."""
    if calibration is None or not demands:
        return None
    store = Store(calibration.store)
    opened = {
        (demand.statistic, demand.source): store.open(digest)
        for demand, digest in zip(demands, calibration.digests, strict=True)
    }
    return Measurements(opened)
