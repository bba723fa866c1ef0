"""How often each site's rows are read: once to merge, and once a sweep of the statistics not taken on that visit."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

from eutectic.plan.memory import arena_bytes, fold_levels, must_be_whole
from eutectic.plan.steps import Merged, Schedule
from eutectic.stats.fold import Scope, Statistic


def readings(merged: Sequence[Merged], doubles: Sequence[bool], schedule: Schedule) -> list[float]:
    """Returns how many times each site is read, samples included as shares.

    A statistic over the model is a sweep of its own. One of a single tensor is taken while the site is held for its
    merge, unless the site is too large to hold, or a statistic over the model comes after it. Those of one level that
    see the same slices of the same sites share their sweeps.
    """
    levels = [fold_levels(site) for site in merged]
    spans: dict[Statistic, list[int]] = defaultdict(list)
    for at, site_levels in enumerate(levels):
        for statistic in {each for level in site_levels for each in level if each.scope is Scope.MODEL}:
            spans[statistic].append(at)
    found = []
    for site, site_levels, double in zip(merged, levels, doubles, strict=True):
        held = arena_bytes(site, site.spec.numel) <= schedule.resident_bytes or must_be_whole(site)
        spanned = any(statistic in spans for level in site_levels for statistic in level)
        count = 1.0
        for level in site_levels:
            walks: dict[Hashable, float] = {}
            for statistic in level:
                over = spans.get(statistic)
                if over is None and held and not spanned:
                    continue
                numel = site.spec.numel if over is None else sum(merged[at].spec.numel for at in over)
                sweeps = statistic.sweeps(numel, double)
                walks[statistic.whole, statistic.whole_rows, sweeps, tuple(over or ())] = sweeps
            count += sum(walks.values())
        found.append(count)
    return found
