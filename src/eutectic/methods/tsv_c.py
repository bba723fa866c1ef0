"""TSV-C: keep each task's largest singular directions beside the model, a share of the rank for each.

Source: Gargiulo et al., Task Singular Vectors, CVPR 2025, arXiv:2412.00081, TSV-Compress, and the authors' code. With
r = min(d_out, d_in) and T tasks, a matrix D_i is cut to its q = int(r / T) largest triplets; tensors of other shapes
are kept whole. The model of task i is base + U_i diag(S_i) V_i^T. All triplets take about twice one model's room.
Departs: there is no merged model in the paper; here it is the base plus the mean of what is kept, which `specialise`
does not read. With more tasks than r, q is 0 and a matrix stays at the base.
"""

import math
from collections.abc import Mapping

from eutectic.methods.declare import Laws, Locality, Needs, Paper, combine
from eutectic.methods.extras import Extra, Outputs, Shape
from eutectic.methods.matrices import share_of, svd_scratch
from eutectic.methods.site import Site, weighted_sum
from eutectic.numerics.spectra import svd
from eutectic.numerics.tensors import Tensor, torch


def kept(shape: Shape, n: int) -> int:
    """Returns how many triplets each task keeps."""
    return share_of(min(shape), n)


def _left(shape: Shape, n: int) -> Shape | None:
    return (shape[0], kept(shape, n)) if len(shape) == 2 else None


def _values(shape: Shape, n: int) -> Shape | None:
    return (kept(shape, n),) if len(shape) == 2 else None


def _right(shape: Shape, n: int) -> Shape | None:
    return (kept(shape, n), shape[1]) if len(shape) == 2 else None


def _whole(shape: Shape, n: int) -> Shape | None:
    return None if len(shape) == 2 else shape


def _scratch(n: int, shape: Shape) -> float:
    return svd_scratch(n, shape) if len(shape) == 2 else 2.0 * n * math.prod(shape)


def _specialise(base: Tensor, merged: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
    """Base + what was kept of the task's delta."""
    if "delta" in extras:
        return base + extras["delta"]
    return base + (extras["left"] * extras["values"]) @ extras["right"]


def _filled(vectors: Tensor, count: int) -> Tensor:
    """Puts zeros for the triplets that a delta of low rank does not have."""
    return torch.cat([vectors, vectors.new_zeros(*vectors.shape[:-1], count - vectors.shape[-1])], dim=-1)


@combine(
    Paper("arXiv:2412.00081", "Task Singular Vectors (TSV-C)", 2025),
    needs=Needs(base=True, locality=Locality.TENSOR, scratch=_scratch),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True),
    extras=(
        Extra("left", "F32", _left),
        Extra("values", "F32", _values),
        Extra("right", "F32", _right),
        Extra("delta", "F32", _whole),
    ),
    specialise=_specialise,
)
def tsv_c(site: Site, *, exact: bool = False) -> Outputs:
    """Keeps each task's leading directions, and merges their mean: (n, *shape) around (*shape) -> (*shape).

    Args:
        exact: take full SVDs in the work precision instead of shortcuts by Gram matrices.
    """
    deltas, share = site.deltas, torch.full((site.n,), 1 / site.n, dtype=site.deltas.dtype)
    if deltas.dim() != 3:
        return Outputs(site.base + weighted_sum(site.column(share), deltas), {"delta": deltas})
    most = kept(tuple(site.base.shape), site.n)
    parts = site.each(lambda delta: svd(delta, most, exact=exact), deltas)
    left = torch.stack([_filled(part.u, most) for part in parts])
    values = torch.stack([_filled(part.s, most) for part in parts])
    right = torch.stack([_filled(part.v, most).T for part in parts])
    rebuilt = (left * values[:, None]) @ right
    merged = site.base + weighted_sum(site.column(share), rebuilt)
    return Outputs(merged, {"left": left, "values": values, "right": right})
