"""DOGE: deltas of equal size, moved by a common correction that keeps out of the subspace the tasks share.

Source: Wei et al., Modeling Multi-Task Model Merging as Adaptive Projective Gradient Descent, ICML 2025,
arXiv:2501.01230, as the port in fusion_bench (`doge_ta`) computes it; the authors' code was not available. Per matrix
with deltas v_i: l_i = strength / |v_i|, A = sum_i l_i v_i, g = sum_i l_i. P holds the first int(r / divisor) left
singular vectors of all tasks' first int(r / T), side by side. A correction c starts at 0 and takes Adam steps on
sum_j sum_rows <v_j, v_j - A - g c>^2, whose gradient G = -2 g sum_j <v_j, v_j - A - g c> v_j is reduced to G - P P^T G.
The result is base + sum_i l_i (v_i + c) m_i, where m_i masks the model's `density` largest magnitudes of v_i over all
tensors that are merged this way (the port masks before it adds c; its documentation says after).
Departs: a task whose delta is zero here takes no part (the port divides by its norm). `weight` multiplies l_i. The port
takes the matrices of an encoder; here a tensor's role decides (`tensors`).
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from eutectic.methods.declare import Bounds, Elsewhere, Fraction, Laws, Locality, Needs, Paper, PerModel, combine
from eutectic.methods.matrices import Tensors, domain, mean_elsewhere, svd_scratch
from eutectic.methods.site import Site, weighted_sum
from eutectic.numerics.adam import Adam
from eutectic.numerics.spectra import svd
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Scope, Statistic
from eutectic.stats.quantiles import MagnitudeQuantile


def _folds(*, density: float, **_: object) -> Mapping[str, Statistic]:
    return {"cut": MagnitudeQuantile(Scope.MODEL, (density,), "official")} if density < 1 else {}


def _scratch(n: int, shape: tuple[int, ...]) -> float:
    return svd_scratch(n, shape) + (6.0 * n + 16.0) * shape[0] * shape[1]


def _needs(*, tensors: str, **_: object) -> Needs:
    return Needs(base=True, locality=Locality.TENSOR, domain=domain(tensors), scratch=_scratch)


def _elsewhere(n: int, *, others: str, **_: object) -> Elsewhere:
    return mean_elsewhere(n, scale=1.0) if others == "mean" else Elsewhere(None)


@combine(
    Paper("arXiv:2501.01230", "Adaptive Projective Gradient Descent (DOGE)", 2025),
    needs=_needs(tensors="linear"),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=False),
    folds=_folds,
    vary=_needs,
    elsewhere=_elsewhere,
)
def doge(
    site: Site,
    *,
    weight: PerModel = 1.0,  # type: ignore[assignment]
    strength: float = 0.07,
    divisor: Annotated[int, Bounds(1)] = 6,
    density: Fraction = 0.3,
    steps: Annotated[int, Bounds(0)] = 400,
    rate: Annotated[float, Bounds(0.0)] = 1e-4,
    others: Literal["base", "mean"] = "base",
    tensors: Tensors = "linear",
    exact: bool = False,
) -> Tensor:
    """Adds the deltas, brought to one size and corrected: (n, d_out, d_in) around (d_out, d_in) -> (d_out, d_in).

    Args:
        weight: multiplies each delta's size.
        strength: the norm that each delta is brought to in a matrix (lambda).
        divisor: the shared subspace has this part of the rank (the port calls it subspace).
        density: share of each model's deltas kept, by magnitude over all these tensors.
        steps: how many steps.
        rate: of Adam: about how far a step moves an element.
        others: what the other tensors become: the base's, or moved by the mean of the deltas.
        tensors: merge the linear maps this way, or every matrix.
        exact: take full SVDs in the work precision instead of shortcuts by Gram matrices.
    """
    deltas = site.deltas
    norms = deltas.double().flatten(1).norm(dim=1)
    sizes = weight * site.column((strength / norms).where(norms != 0, 0.0))
    shared = _shared(site, divisor, exact)
    correction = _correct(deltas, sizes, shared, steps, rate)
    moved = deltas + correction
    if density < 1:
        moved = moved * (deltas.abs() >= site.column(site.fold("cut")))
    return site.base + weighted_sum(sizes, moved)


def _shared(site: Site, divisor: int, exact: bool) -> Tensor:
    """Returns the left vectors (d_out, p) of the subspace that the tasks share."""
    rank = min(site.base.shape)
    most = rank // site.n
    vectors = torch.cat(site.each(lambda delta: svd(delta, most, exact=exact).u, site.deltas), dim=1)
    return svd(vectors, int(rank / divisor), exact=exact).u


def _correct(deltas: Tensor, sizes: Tensor, shared: Tensor, steps: int, rate: float) -> Tensor:
    """Returns the correction (d_out, d_in)."""
    # Adam divides gradients by their own size: rounding errors where there is no gradient would be steps in float32.
    each = deltas.transpose(0, 1).double().contiguous()  # (d_out, n, d_in): a row of the matrix, all its models
    sizes, shared = sizes.double(), shared.double()
    total = float(sizes.sum())
    offsets = (each * (each - weighted_sum(sizes, each.transpose(0, 1))[:, None])).sum(2)  # (d_out, n)
    adam = Adam(torch.zeros_like(each[:, 0]), rate)
    for _ in range(steps):
        errors = offsets - total * torch.bmm(each, adam.values[:, :, None]).squeeze(2)
        gradient = -2 * total * torch.bmm(errors[:, None], each).squeeze(1)
        adam.step(gradient - shared @ (shared.T @ gradient))
    return adam.values.to(deltas.dtype)
