"""Consensus merging: keep of the merged model what several tasks use, drop what one or none does.

Source: Wang et al., Localizing Task Information for Improved Model Merging and Compression, ICML 2024,
arXiv:2405.07813, and the authors' code: elements that fewer than k tasks' TALL masks hold are set to
zero, and the result is base + scale * what is left. With `vector: ties` it is Consensus TIES, else Consensus task
arithmetic; k = 1 drops only what no task uses, k = 0 nothing.
Departs: thresholds and scale are chosen on held-out data there; 0.4 is ours for both. An element that is not finite
is kept, so that it is seen.
"""

from dataclasses import replace
from typing import Annotated, Any, Literal

from eutectic.methods.declare import Bounds, Laws, Locality, Needs, Paper, PerModel, PerModelFraction, combine
from eutectic.methods.site import Site
from eutectic.methods.tall_masks import described, folds, masks, summed
from eutectic.numerics.stages import Combination, Marks, Numbers
from eutectic.numerics.tensors import Tensor


def _fused(site: Site, *, threshold: Numbers, least: int, scale: float, **values: Any) -> Combination:
    return replace(described(site, **values), scale=scale, marks=Marks("near", threshold, least))


@combine(
    Paper("arXiv:2405.07813", "Localizing Task Information (consensus merging)", 2024),
    needs=Needs(base=True, locality=Locality.ELEMENT, scratch=5.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True),
    folds=folds,
    fused=_fused,
)
def consensus(
    site: Site,
    *,
    least: Annotated[int, Bounds(0)] = 2,
    threshold: PerModel = 0.4,  # type: ignore[assignment]
    scale: float = 0.4,
    vector: Literal["sum", "ties"] = "sum",
    density: PerModelFraction = 0.2,  # type: ignore[assignment]
) -> Tensor:
    """Adds the deltas where at least so many tasks need them: (n, *shape) around (*shape) -> (*shape).

    Args:
        least: how many tasks' masks must hold an element (k).
        threshold: how much nearer to the merged model than to the base a task must be; a larger one masks less in.
        scale: multiplies what is left (alpha).
        vector: the sum of the deltas, or the TIES vector, whose kept deltas are added up where they agree.
        density: with `vector: ties`, the share of each model's deltas kept.
    """
    total = summed(site, vector, density)
    kept = masks(site, site.base + total, threshold).sum(0) >= least
    return site.base + scale * total.where(kept | ~total.isfinite(), 0.0)
