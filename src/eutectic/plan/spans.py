"""What sites that share a statistic of the whole model must have in common: the models, in order, and the precision."""

from collections.abc import Sequence

from eutectic.checkpoint.source import Checkpoint
from eutectic.errors import MismatchError
from eutectic.plan.memory import site_folds
from eutectic.plan.steps import Merged, work_double
from eutectic.recipe.model import Recipe
from eutectic.stats.fold import Scope


def spanning(merged: Sequence[Merged]) -> list[Merged]:
    """Returns the sites with a statistic over the whole model."""
    return [site for site in merged if any(fold.scope is Scope.MODEL for fold in site_folds(site))]


def work_doubles(recipe: Recipe, merged: Sequence[Merged]) -> list[bool]:
    """Returns for each site whether it is computed in float64.

    One double-precision tensor makes all sites double that share a statistic with it: magnitudes of two precisions
    cannot be counted together.
    """
    spans = {id(site) for site in spanning(merged)}
    own = [work_double(recipe, site) for site in merged]
    shared = any(double and id(site) in spans for site, double in zip(merged, own, strict=True))
    return [double or (shared and id(site) in spans) for site, double in zip(merged, own, strict=True)]


def check_spans(merged: Sequence[Merged], inputs: Sequence[Checkpoint]) -> None:
    """Checks that a statistic over the whole model sees the same models everywhere.

    Raises:
        MismatchError: when tensors are merged from different models (slices, or `missing: present`).
    """
    spans = spanning(merged)
    for site in spans:
        here, first = (tuple(feed.source for feed in each.models) for each in (site, spans[0]))
        if here != first:
            said, other = (", ".join(inputs[source].reference for source in each) for each in (here, first))
            raise MismatchError(
                f"{site.spec.name}: is merged from {said}, and {spans[0].spec.name} from {other}, so nothing can be "
                f"measured per model over all tensors; set scope: tensor (per: tensor), or missing: base"
            )
