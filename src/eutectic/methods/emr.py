"""EMR-Merging: elect one unified model, and keep for each task a mask and a rescaler that turn it back.

Source: Huang et al., EMR-Merging, NeurIPS 2024, arXiv:2405.17461, Algorithm 1, and the authors' code. The unified
delta has the sign of the models' sum and the largest magnitude of those that agree; model i has the mask M_i where it
agrees, and the rescaler sum |delta_i| / sum |M_i * unified|. The model of task i is base + rescaler * M_i * unified.
Departs: where a model agrees nowhere its rescaler is 1, not a division by zero.
"""

from collections.abc import Mapping
from typing import Literal

from eutectic.methods.declare import Laws, Locality, Needs, Paper, combine
from eutectic.methods.extras import BIT, Extra, Outputs, number
from eutectic.methods.site import Site
from eutectic.numerics.stages import Combination, Floats, Marks, Numbers
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.elected import Elected, agreeing, elect
from eutectic.stats.fold import Scope, Statistic


def rescalers(masses: Floats) -> Numbers:
    """Returns each model's rescaler from the magnitudes of its deltas and of what it agrees with, (2, n)."""
    return tuple(own / agreed if agreed != 0 else 1.0 for own, agreed in masses.T.tolist())


def _folds(*, rescale: Literal["mean", "sum"]) -> Mapping[str, Statistic]:
    return {"masses": Elected(Scope.MODEL, rescale)}


def _fused(site: Site, **_: object) -> Combination:
    numbers = (rescalers(site.fold("masses")),)
    ones = (1.0,) * site.n
    return Combination(ones, "deltas", anchor=1.0, average="unified", marks=Marks("agrees"), numbers=numbers)


def _specialise(base: Tensor, merged: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
    """Algorithm 1, last line: base + rescaler * mask * unified."""
    return base + (extras["rescaler"] * (merged - base)).where(extras["mask"], 0.0)


@combine(
    Paper("arXiv:2405.17461", "EMR-Merging", 2024),
    needs=Needs(base=True, locality=Locality.ELEMENT, scratch=5.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=True, shift=True, scale=True),
    folds=_folds,
    fused=_fused,
    extras=(Extra("mask", BIT), Extra("rescaler", "F32", number)),
    specialise=_specialise,
)
def emr(site: Site, *, rescale: Literal["mean", "sum"] = "mean") -> Outputs:
    """Elects one delta for all, and keeps what turns it back: (n, *shape) around (*shape) -> (*shape).

    Args:
        rescale: rescalers are ratios of magnitudes: the tensors' means added up (the authors' code), or the sums over
            all elements (the paper).
    """
    unified = elect(site.deltas)
    extras = {
        "mask": agreeing(site.deltas, unified),
        "rescaler": torch.tensor(rescalers(site.fold("masses"))),
    }
    return Outputs(site.base + unified, extras)
