"""TSV-M: the largest singular directions of every task, made orthogonal to one another.

Source: Gargiulo et al., Task Singular Vectors, CVPR 2025, arXiv:2412.00081, Algorithm 1, and the authors' code. With
r = min(d_out, d_in) and T tasks, D_i ~ U_i S_i V_i^T is cut to k = int(r / T) triplets; U = [U_1 .. U_T] and
V = [V_1 .. V_T] are replaced by their polar factors U' and V'; the merged delta is scale * U' diag(S_1 .. S_T) V'^T.
With more tasks than r, k is 0 and a matrix stays at the base, as in the authors' code.
Departs: directions that a delta does not have (an unchanged matrix, a low-rank one) take no part; in the authors' code
arbitrary vectors stand for them and turn the others. `weight` multiplies a delta before anything else, as the list of
scales in fusion_bench does. Embeddings, positions and heads are averaged like vectors; the authors decompose them too
(`tensors: matrices`), but for `text_projection`, which a rule can except.
"""

from typing import Literal

from eutectic.methods.declare import Laws, Locality, Needs, Paper, PerModel, combine
from eutectic.methods.matrices import Tensors, domain, mean_elsewhere, rounding, share_of, svd_scratch
from eutectic.methods.site import Site
from eutectic.numerics.spectra import Svd, polar, svd
from eutectic.numerics.tensors import Tensor, torch


def _needs(*, tensors: str, **_: object) -> Needs:
    return Needs(base=True, locality=Locality.TENSOR, domain=domain(tensors), scratch=svd_scratch)


def _joined(parts: list[Svd]) -> Svd:
    """Puts the triplets of all tasks side by side."""
    u, v = (torch.cat([getattr(part, side) for part in parts], dim=1) for side in ("u", "v"))
    return Svd(u, torch.cat([part.s for part in parts]), v)


@combine(
    Paper("arXiv:2412.00081", "Task Singular Vectors (TSV-M)", 2025),
    needs=_needs(tensors="linear"),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True),
    vary=_needs,
    elsewhere=mean_elsewhere,
)
def tsv_m(
    site: Site,
    *,
    weight: PerModel = 1.0,  # type: ignore[assignment]
    scale: float = 1.0,
    keep: Literal["share", "all"] = "share",
    whiten: bool = True,
    tensors: Tensors = "linear",
    exact: bool = False,
) -> Tensor:
    """Adds the tasks' leading directions, made orthogonal: (n, d_out, d_in) around (d_out, d_in) -> (d_out, d_in).

    Args:
        weight: multiplies each delta.
        scale: multiplies the merged delta (alpha); the paper finds 1 best.
        keep: each task's share of the rank, or all its directions.
        whiten: replace the vectors by their polar factors; without it, the cut deltas are added up.
        tensors: merge the linear maps this way, or every matrix; the others move by the mean delta times the scale.
        exact: take full SVDs in the work precision instead of shortcuts by Gram matrices.
    """
    deltas = weight * site.deltas
    rank = min(site.base.shape)
    most = share_of(rank, site.n) if keep == "share" else rank
    least = rounding(site)
    found = _joined(site.each(lambda delta: svd(delta, most, least=least, exact=exact), deltas))
    if whiten:
        u, v = site.each(lambda vectors: polar(vectors, exact=exact), (found.u, found.v))
        found = Svd(u, found.s, v)
    return site.base + scale * found.matrix
