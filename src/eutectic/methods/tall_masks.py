"""TALL masks: where the merged model carries a task, so that each task's model can be cut out of it.

Source: Wang et al., Localizing Task Information for Improved Model Merging and Compression, ICML 2024,
arXiv:2405.07813, and the authors' code: m_t = |base - model_t| > threshold * |merged - model_t|, and
the model of task t is base + m_t * (merged - base). The merged model is the sum of all deltas, or the TIES vector
with sums (`vector: ties`), both with coefficient 1.
Departs: the threshold (lambda in the paper) is chosen on held-out data there, per task, from 0.2 to 0.6; 0.4 is ours.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, cast

from eutectic.methods.declare import Laws, Locality, Needs, Paper, PerModel, PerModelFraction, combine
from eutectic.methods.extras import BIT, Extra, Outputs
from eutectic.methods.site import Site, weighted_sum
from eutectic.methods.ties import ties
from eutectic.numerics.stages import Combination, Marks, Numbers
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Statistic

#: The TIES vector of the authors' code; `density` is the method's own.
_TIES: dict[str, Any] = {"scale": 1.0, "scope": "model", "count": "official", "average": "sum", "tie": "majority"}


def folds(*, vector: str, density: Numbers, **_: object) -> Mapping[str, Statistic]:
    """Returns the statistics that the vector needs."""
    return ties.folds(density=density, weight=(1.0,), **_TIES) if vector == "ties" else {}


def described(site: Site, *, vector: str, density: Numbers, **_: object) -> Combination:
    """Returns base + vector for the kernels."""
    ones = (1.0,) * site.n
    if vector == "ties":
        assert ties.fused is not None  # it is
        return cast(Combination, ties.fused(site, density=density, weight=ones, **_TIES))
    return Combination(ones, "deltas", anchor=1.0)


def summed(site: Site, vector: str, density: Tensor) -> Tensor:
    """Returns the merged delta: (n, *shape) -> (*shape)."""
    ones = torch.ones_like(density)
    if vector == "ties":
        around_zero = replace(site.with_deltas(site.deltas), anchor=torch.zeros_like(site.base))
        return ties(around_zero, density=density, weight=ones, **_TIES)
    return weighted_sum(ones, site.deltas)


def masks(site: Site, merged: Tensor, threshold: Tensor) -> Tensor:
    """Returns where each model is nearer to the merged one than to the base: (n, *shape) bool."""
    models = site.tensors
    return (site.base - models).abs() > threshold * (merged - models).abs()


def _fused(site: Site, *, threshold: Numbers, **values: Any) -> Combination:
    return replace(described(site, **values), marks=Marks("near", threshold))


def _specialise(base: Tensor, merged: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
    """The merged model where the mask is set, else the base."""
    return merged.where(extras["mask"], base)


@combine(
    Paper("arXiv:2405.07813", "Localizing Task Information (TALL masks)", 2024),
    needs=Needs(base=True, locality=Locality.ELEMENT, scratch=5.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True),
    folds=folds,
    fused=_fused,
    extras=(Extra("mask", BIT),),
    specialise=_specialise,
)
def tall_masks(
    site: Site,
    *,
    threshold: PerModel = 0.4,  # type: ignore[assignment]
    vector: Literal["sum", "ties"] = "sum",
    density: PerModelFraction = 0.2,  # type: ignore[assignment]
) -> Outputs:
    """Adds all deltas, and keeps where each task is in the sum: (n, *shape) around (*shape) -> (*shape).

    Args:
        threshold: how much nearer to the merged model than to the base a task must be; a larger one masks less in.
        vector: the sum of the deltas, or the TIES vector, whose kept deltas are added up where they agree.
        density: with `vector: ties`, the share of each model's deltas kept.
    """
    merged = site.base + summed(site, vector, density)
    return Outputs(merged, {"mask": masks(site, merged, threshold)})
