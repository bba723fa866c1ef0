"""Which results of calibration the sites of a plan read."""

from collections.abc import Sequence

from eutectic.plan.steps import Demand, Feed, Merged
from eutectic.recipe.resolve import ResolvedStep
from eutectic.stats.fold import Calibrated, Norm, Of


def read_by(step: ResolvedStep, n: int) -> dict[str, Calibrated | Norm]:
    """Returns the calibrated statistics that a step reads, by the name it reads them under."""
    ones = dict.fromkeys(step.coefficients, (1.0,) * n)
    return dict(step.method.calibrated(**(ones | dict(step.values))))


def held_under(site: Merged, feed: Feed, statistic: Calibrated) -> str:
    """Returns the name that a model's result at a site is kept under.

    Results at the base's own weights, and at tensors that a model does not change, have the base's name.
    """
    if statistic.of is Of.BASE and site.base is not None:
        return site.base.name
    return feed.name


def demands(merged: Sequence[Merged]) -> tuple[Demand, ...]:
    """Returns what calibration must find, one demand a statistic and model."""
    wanted: dict[tuple[Calibrated, int], dict[str, None]] = {}
    for site in merged:
        for step in site.steps:
            for found in read_by(step, len(site.models)).values():
                statistic = found.over if isinstance(found, Norm) else found
                for feed in site.models:
                    wanted.setdefault((statistic, feed.source), {})[held_under(site, feed, statistic)] = None
    return tuple(Demand(statistic, source, tuple(names)) for (statistic, source), names in wanted.items())
