"""DARE: drop most changes at random and rescale the rest.

Source: Yu et al., Language Models are Super Mario, ICML 2024, arXiv:2311.03099, equation (1): a delta is dropped with
probability p and divided by 1 - p otherwise. Here `density` is the kept share, 1 - p.
Departs: draws are a function of (seed, tensor, model, element), so masks differ from other tools' for the same seed;
`rescale: l1` is mergekit's, which restores each tensor's sum of magnitudes instead of dividing by the density.
"""

from collections.abc import Mapping
from typing import Literal

from eutectic.methods.declare import Laws, Locality, Needs, Paper, PerModelFraction, transform
from eutectic.methods.site import Site
from eutectic.numerics.draw import drawn_share
from eutectic.numerics.stages import Drop, Numbers, Scale, Stage
from eutectic.numerics.tensors import Tensor
from eutectic.stats.fold import Scope, Statistic
from eutectic.stats.weights import Mass, restoring


def _folds(*, density: Numbers, rescale: str) -> Mapping[str, Statistic]:
    if rescale != "l1" or min(density) >= 1:
        return {}
    kept = Drop(density, (1.0,) * len(density), 0)
    return {"all": Mass(Scope.TENSOR), "kept": Mass(Scope.TENSOR, kept=kept)}


def _factors(density: Numbers, rescale: str) -> Numbers:
    """Returns what multiplies a kept delta before any restoring of mass."""
    kept = (drawn_share(share) for share in density)
    return tuple(1 / share if rescale == "inverse" and share > 0 else 1.0 for share in kept)


def _fused(site: Site, *, density: Numbers, rescale: str) -> tuple[Stage, ...]:
    if min(density) >= 1:
        return ()
    drop = Drop(density, _factors(density, rescale), site.key.step)
    if rescale != "l1":
        return (drop,)
    return (drop, Scale(restoring(site.fold("all"), site.fold("kept"))))


@transform(
    Paper("arXiv:2311.03099", "Language Models are Super Mario (DARE)", 2024),
    needs=Needs(base=True, locality=Locality.ELEMENT, random=True, scratch=4.0),
    laws=Laws(symmetric=False, fixed_point=True, identity=False, shift=True, scale=True),
    folds=_folds,
    fused=_fused,
)
def dare(site: Site, *, density: PerModelFraction, rescale: Literal["inverse", "l1", "none"] = "inverse") -> Tensor:
    """Drops each delta with probability 1 - density: (n, *shape) -> (n, *shape).

    Args:
        density: share kept (1 - p); the paper merges with 0.1 to 0.3, mergekit recipes with about 0.5.
        rescale: divide what is kept by the density (unbiased), restore each tensor's sum of magnitudes, or neither.
    """
    shares = tuple(density.flatten().double().tolist())
    if min(shares) >= 1:
        return site.deltas
    kept = site.deltas.where(site.key.keep(shares, site.deltas), 0.0) * site.column(_factors(shares, rescale))
    if rescale != "l1":
        return kept
    return kept * site.column(restoring(site.fold("all"), site.fold("kept")))
