"""Iso-CTS: Iso-C on the directions the tasks share, with the last ones given to what each task has alone.

Source: Marczak et al., No Task Left Behind: Isotropic Model Merging, ICML 2025, arXiv:2502.04959, Algorithm 2, and the
authors' code. With r = min(d_out, d_in) and T tasks, s = round((r - int(r * common)) / T) directions a task and
k = r - T s common ones: the top k of the SVD of sum_i D_i, and the top s of D_i - U U^T D_i with U the common left
vectors. The vectors of all are replaced by their polar factors, and all r singular values by their mean.
Departs: where the rounding would leave less than no common direction, the tasks get one less each. Directions that a
matrix does not have take no part. `weight` multiplies a delta before anything else. Embeddings, positions and heads are
averaged like vectors; the authors decompose them too (`tensors: matrices`).
"""

from eutectic.methods.declare import Fraction, Laws, Locality, Needs, Paper, PerModel, combine
from eutectic.methods.matrices import Tensors, domain, mean_elsewhere, rounding, svd_scratch
from eutectic.methods.site import Site, weighted_sum
from eutectic.numerics.spectra import Svd, polar, svd
from eutectic.numerics.tensors import Tensor, torch


def split(rank: int, tasks: int, common: float) -> tuple[int, int]:
    """Returns how many directions are common, and how many each task has; together they are the rank."""
    each = min(round((rank - int(rank * common)) / tasks), rank // tasks)
    return rank - tasks * each, each


def _rest(delta: Tensor, shared: Tensor, most: int, least: float, exact: bool) -> Svd:
    """Returns the leading triplets of what a delta has beside the common left vectors, rounding errors left out."""
    least = max(least, 16 * torch.finfo(delta.dtype).eps * float(delta.double().norm()))
    return svd(delta - shared @ (shared.T @ delta), most, least=least, exact=exact)


def _needs(*, tensors: str, **_: object) -> Needs:
    return Needs(base=True, locality=Locality.TENSOR, domain=domain(tensors), scratch=svd_scratch)


@combine(
    Paper("arXiv:2502.04959", "Isotropic Merging (Iso-CTS)", 2025),
    needs=_needs(tensors="linear"),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True),
    vary=_needs,
    elsewhere=mean_elsewhere,
)
def iso_cts(
    site: Site,
    *,
    weight: PerModel = 1.0,  # type: ignore[assignment]
    scale: float = 1.0,
    common: Fraction = 0.8,
    tensors: Tensors = "linear",
    exact: bool = False,
) -> Tensor:
    """Adds common and task-specific directions alike: (n, d_out, d_in) around (d_out, d_in) -> (d_out, d_in).

    Args:
        weight: multiplies each delta.
        scale: multiplies the merged delta (alpha); the paper's best are 1.5 for 8 tasks and 1.1 for 20 (ViT-B/32).
        common: share of the directions that come from the deltas' sum.
        tensors: merge the linear maps this way, or every matrix; the others move by the mean delta times the scale.
        exact: take full SVDs in the work precision instead of shortcuts by Gram matrices.
    """
    deltas = weight * site.deltas
    rank = min(site.base.shape)
    shared, own = split(rank, site.n, common)
    least = rounding(site)
    top = svd(weighted_sum(torch.ones_like(weight), deltas), shared, least=least, exact=exact)
    parts = [*site.each(lambda delta: _rest(delta, top.u, own, least, exact), deltas), top]
    sides = (torch.cat([getattr(part, side) for part in parts], dim=1) for side in ("u", "v"))
    u, v = site.each(lambda vectors: polar(vectors, exact=exact), sides)
    mean = torch.cat([part.s for part in parts]).sum() / max(1, rank)
    return site.base + scale * mean * (u @ v.T)
