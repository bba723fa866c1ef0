"""DELLA: drop changes at random, the small ones of each row more often than the large ones.

Source: Deep et al., DELLA-Merging, 2024, arXiv:2406.11617, section 3.1 (MagPrune): in each row a delta's probability to
be kept rises evenly with the rank of its magnitude, from density - epsilon to density + epsilon (half the paper's
window), and what is kept is divided by its own probability. The paper's other steps are the next method of the chain:
`[della, ties]` with ties' density 1, or `[della, task_arithmetic]`.
Departs: draws are a function of (seed, tensor, model, element); of equal magnitudes the later one ranks higher.
`rescale: l1` is mergekit's, which restores each tensor's sum of magnitudes, and is biased towards large deltas.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from eutectic.errors import RecipeError
from eutectic.methods.declare import Bounds, Laws, Locality, Needs, Paper, PerModelFraction, transform
from eutectic.methods.site import Site
from eutectic.numerics.stages import Numbers, RankedDrop, Scale, Stage, apply
from eutectic.numerics.tensors import Tensor
from eutectic.stats.fold import Scope, Statistic
from eutectic.stats.weights import Mass, restoring


def _drop(density: Numbers, epsilon: Numbers, rescale: str, step: int = 0) -> RankedDrop:
    for d, e in zip(density, epsilon, strict=True):
        if 0 < d < 1 and not (d - e > 0 and d + e < 1):
            raise RecipeError(
                f"della: density -/+ epsilon lie between 0 and 1; found density {d:g} and epsilon {e:g}: lower epsilon"
            )
    return RankedDrop(density, epsilon, rescale == "inverse", step)


def _folds(*, density: Numbers, epsilon: Numbers, rescale: str) -> Mapping[str, Statistic]:
    kept = _drop(density, epsilon, rescale)
    if rescale != "l1" or min(density) >= 1:
        return {}
    return {"all": Mass(Scope.TENSOR), "kept": Mass(Scope.TENSOR, kept=kept)}


def _fused(site: Site, *, density: Numbers, epsilon: Numbers, rescale: str) -> tuple[Stage, ...]:
    if min(density) >= 1:
        return ()
    drop = _drop(density, epsilon, rescale, site.key.step)
    if rescale != "l1":
        return (drop,)
    return (drop, Scale(restoring(site.fold("all"), site.fold("kept"))))


@transform(
    Paper("arXiv:2406.11617", "DELLA-Merging", 2024),
    needs=Needs(base=True, locality=Locality.ROW, random=True, scratch=6.0),
    laws=Laws(symmetric=False, fixed_point=True, identity=False, shift=True, scale=True),
    folds=_folds,
    fused=_fused,
)
def della(
    site: Site,
    *,
    density: PerModelFraction,
    epsilon: Annotated[Tensor, Bounds(0.0, 0.5, per_model=True)] = 0.15,  # type: ignore[assignment]
    rescale: Literal["inverse", "l1", "none"] = "inverse",
) -> Tensor:
    """Drops each delta, small ones more often: (n, *shape) -> (n, *shape).

    Args:
        density: share kept on average (1 - p); 1 keeps all.
        epsilon: how much likelier the largest of a row is kept than the average one, and the smallest less.
        rescale: divide what is kept by its own probability (unbiased), restore each tensor's sum of magnitudes, or
            neither.
    """
    shares, rise = (tuple(each.flatten().double().tolist()) for each in (density, epsilon))
    drop = _drop(shares, rise, rescale, site.key.step)
    if min(shares) >= 1:
        return site.deltas
    kept = apply(drop, site.deltas, site.key)
    if rescale != "l1":
        return kept
    return kept * site.column(restoring(site.fold("all"), site.fold("kept")))
