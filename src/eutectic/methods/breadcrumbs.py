"""Breadcrumbs: drop the largest changes of each model as well as the small ones.

Source: Davari and Belilovsky, Model Breadcrumbs, ECCV 2024, arXiv:2312.06795, and the authors' code: in each row, the
int(c * gamma) largest of c deltas go, then the int(c * density) largest of the rest stay (their beta).
Departs: `scope: tensor` is mergekit's `breadcrumbs`, which counts in the whole tensor and, where density and gamma add
up to more than 1, honours density (`first: density`); there, magnitudes equal to a cut are all kept. `rescale: l1` is
mergekit's: the sum of magnitudes of each tensor is restored. In a row, of equal magnitudes the later is the larger.
"""

from collections.abc import Mapping
from typing import Literal

from eutectic.methods.declare import Laws, Locality, Needs, Paper, PerModelFraction, transform
from eutectic.methods.site import Site
from eutectic.numerics.stages import Numbers, RankedBand, Scale, Stage, apply
from eutectic.numerics.tensors import Tensor
from eutectic.stats.fold import Scope, Statistic
from eutectic.stats.quantiles import MagnitudeBand, band_of
from eutectic.stats.weights import Mass, restoring


def _untouched(density: Numbers, first: str) -> bool:
    return first == "density" and min(density) >= 1


def _band(density: Numbers, gamma: Numbers, scope: str, first: str) -> RankedBand | MagnitudeBand:
    """Returns what keeps the middle: a stage by ranks in each row, or the statistic of a tensor's two cuts."""
    honoured: Literal["kept", "removed"] = "kept" if first == "density" else "removed"
    if scope == "row":
        return RankedBand(density, gamma, honoured)
    return MagnitudeBand(Scope.TENSOR, density, gamma, honoured)


def _folds(*, density: Numbers, gamma: Numbers, scope: str, first: str, rescale: str) -> Mapping[str, Statistic]:
    if _untouched(density, first):
        return {}
    band = _band(density, gamma, scope, first)
    folds: dict[str, Statistic] = {"band": band} if isinstance(band, MagnitudeBand) else {}
    if rescale == "l1":
        kept = Mass(Scope.TENSOR, band=band) if isinstance(band, MagnitudeBand) else Mass(Scope.TENSOR, kept=band)
        folds |= {"all": Mass(Scope.TENSOR), "kept": kept}
    return folds


def _fused(site: Site, *, density: Numbers, gamma: Numbers, scope: str, first: str, rescale: str) -> tuple[Stage, ...]:
    if _untouched(density, first):
        return ()
    band = _band(density, gamma, scope, first)
    stage = band_of(site.fold("band")) if isinstance(band, MagnitudeBand) else band
    return (stage,) if rescale == "none" else (stage, Scale(restoring(site.fold("all"), site.fold("kept"))))


_ROWS = Needs(base=True, locality=Locality.ROW, scratch=4.0)


def _vary(*, scope: str, **_: object) -> Needs:
    return _ROWS if scope == "row" else Needs(base=True, locality=Locality.ELEMENT, scratch=3.0)


@transform(
    Paper("arXiv:2312.06795", "Model Breadcrumbs", 2024),
    needs=_ROWS,
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True),
    folds=_folds,
    fused=_fused,
    vary=_vary,
)
def breadcrumbs(
    site: Site,
    *,
    density: PerModelFraction,
    gamma: PerModelFraction = 0.01,  # type: ignore[assignment]
    scope: Literal["row", "tensor"] = "row",
    first: Literal["gamma", "density"] = "gamma",
    rescale: Literal["none", "l1"] = "none",
) -> Tensor:
    """Zeroes the largest and the small deltas of each model: (n, *shape) -> (n, *shape).

    Args:
        density: share kept, of the largest that are left (beta).
        gamma: share of the largest deltas that go.
        scope: shares of each row (the authors' code), or of each tensor (mergekit).
        first: which share is honoured where both together exceed 1.
        rescale: leave what is kept as it is, or restore each tensor's sum of magnitudes.
    """
    shares, gone = (tuple(each.flatten().double().tolist()) for each in (density, gamma))
    if _untouched(shares, first):
        return site.deltas
    band = _band(shares, gone, scope, first)
    stage = band_of(site.fold("band")) if isinstance(band, MagnitudeBand) else band
    kept = apply(stage, site.deltas, site.key)
    if rescale == "none":
        return kept
    return kept * site.column(restoring(site.fold("all"), site.fold("kept")))
