"""How often each site's rows are read: once to merge, and once a sweep of the statistics not taken on that visit."""

from collections import Counter
from collections.abc import Sequence

from eutectic.plan.memory import arena_bytes, must_be_whole, site_folds
from eutectic.plan.steps import Merged, Schedule
from eutectic.stats.fold import Scope, Statistic


def readings(merged: Sequence[Merged], doubles: Sequence[bool], schedule: Schedule) -> list[float]:
    """Returns how many times each site is read, samples included as shares.

    A statistic over the model is a sweep of its own. One of a single tensor is taken while the site is held for its
    merge, unless the site is too large to hold, or a statistic over the model comes after it.
    """
    folds = [list(dict.fromkeys(site_folds(site))) for site in merged]
    totals: Counter[Statistic] = Counter()
    for site, statistics in zip(merged, folds, strict=True):
        for statistic in statistics:
            if statistic.scope is Scope.MODEL:
                totals[statistic] += site.spec.numel
    found = []
    for site, statistics, double in zip(merged, folds, doubles, strict=True):
        count = 1.0
        held = arena_bytes(site, site.spec.numel) <= schedule.resident_bytes or must_be_whole(site)
        spans = any(statistic.scope is Scope.MODEL for statistic in statistics)
        for statistic in statistics:
            if statistic.scope is Scope.MODEL:
                count += statistic.sweeps(totals[statistic], double)
            elif spans or not held:
                count += statistic.sweeps(site.spec.numel, double)
        found.append(count)
    return found
