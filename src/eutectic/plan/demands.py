"""Which results of calibration the sites of a plan read."""

from collections.abc import Sequence

from eutectic.plan.steps import Demand, Feed, Merged
from eutectic.recipe.resolve import ResolvedStep
from eutectic.stats.fold import Calibrated, Norm, Of, Sees, meets


def read_by(site: Merged, step: ResolvedStep) -> dict[str, Calibrated | Norm]:
    """Returns the calibrated statistics that a step reads at a site, by the name it reads them under.

    Of those that its method declares, they are the ones that calibration may have a result of there.
    """
    ones = dict.fromkeys(step.coefficients, (1.0,) * len(site.models))
    declared = step.method.calibrated(**(ones | dict(step.values)))
    shown = [each for each in (Sees.GRADIENTS, meets(site.spec.name, len(site.spec.shape))) if each is not None]
    return {name: found for name, found in declared.items() if any(map(taken(found).takes, shown))}


def taken(found: Calibrated | Norm) -> Calibrated:
    """Returns the statistic that calibration takes: of a norm, what it is the norm of."""
    return found.over if isinstance(found, Norm) else found


def held_under(site: Merged, feed: Feed, statistic: Calibrated) -> str:
    """Returns the name that a model's result at a site is kept under.

    Results at the base's own weights, and at tensors that a model does not change, have the base's name.
    """
    return measured_at(site, feed, statistic).name


def measured_at(site: Merged, feed: Feed, statistic: Calibrated) -> Feed:
    """Returns which row of a site a model's result is about: its own, or the base's."""
    return site.base if statistic.of is Of.BASE and site.base is not None else feed


def demands(merged: Sequence[Merged]) -> tuple[Demand, ...]:
    """Returns what calibration must find, one demand a statistic and model."""
    wanted: dict[tuple[Calibrated, int], dict[str, None]] = {}
    for site in merged:
        for step in site.steps:
            for statistic in map(taken, read_by(site, step).values()):
                for feed in site.models:
                    wanted.setdefault((statistic, feed.source), {})[held_under(site, feed, statistic)] = None
    return tuple(Demand(statistic, source, tuple(names)) for (statistic, source), names in wanted.items())
