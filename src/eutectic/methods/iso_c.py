"""Iso-C: the sum of the deltas with all its singular values made equal.

Source: Marczak et al., No Task Left Behind: Isotropic Model Merging, ICML 2025, arXiv:2502.04959, Algorithm 1, and the
authors' code. With sum_i D_i = U S V^T and r = min(d_out, d_in), the merged delta is scale * mean(S) * U V^T, where the
mean is over all r values.
Departs: directions that the sum does not have get nothing; in the authors' code arbitrary vectors stand for them, with
the same amplitude. `weight` multiplies a delta before the sum. Embeddings, positions and heads are averaged like
vectors; the authors decompose them too (`tensors: matrices`).
"""

from eutectic.methods.declare import Laws, Locality, Needs, Paper, PerModel, combine
from eutectic.methods.matrices import Tensors, domain, mean_elsewhere, rounding, svd_scratch
from eutectic.methods.site import Site, weighted_sum
from eutectic.numerics.spectra import isotropic
from eutectic.numerics.tensors import Tensor


def _needs(*, tensors: str, **_: object) -> Needs:
    return Needs(base=True, locality=Locality.TENSOR, domain=domain(tensors), scratch=svd_scratch)


@combine(
    Paper("arXiv:2502.04959", "Isotropic Merging (Iso-C)", 2025),
    needs=_needs(tensors="linear"),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True),
    vary=_needs,
    elsewhere=mean_elsewhere,
)
def iso_c(
    site: Site,
    *,
    weight: PerModel = 1.0,  # type: ignore[assignment]
    scale: float = 1.0,
    tensors: Tensors = "linear",
    exact: bool = False,
) -> Tensor:
    """Adds the deltas' sum, flattened in spectrum: (n, d_out, d_in) around (d_out, d_in) -> (d_out, d_in).

    Args:
        weight: multiplies each delta.
        scale: multiplies the merged delta (alpha); the paper's best are 1.3 for 8 tasks and 0.9 for 20 (ViT-B/32).
        tensors: merge the linear maps this way, or every matrix; the others move by the mean delta times the scale.
        exact: take a full SVD in the work precision instead of eigenvectors of a Gram matrix in float64.
    """
    return site.base + scale * isotropic(weighted_sum(weight, site.deltas), least=rounding(site), exact=exact)
