"""DC-Merge: even out every task's singular values, and merge in one basis that all tasks' directions share.

Source: DC-Merge, CVPR 2026, arXiv:2603.06242, and the authors' code. Every update is cut into its triplets
U_n S_n V_n^T, and S_n is smoothed: to its mean, or to a line that keeps its sum. U and V are the polar factors of
[U_1 .. U_N] and [V_1 .. V_N]. Of M_n = U^T (U_n S~_n V_n^T) V the largest `keep` of the entries stay; they vote as in
TIES, and the mean of those with the elected sign is M. Its blocks off the diagonal, one task's rows and another's
columns, are zeroed, and scale * U M V^T is the update.

Departs: every adapter has as many triplets as its rank, where the code has 16, and null directions take no part;
updates have their scales (alpha / r). `weight` is not in the paper, and `scale` is searched there on data, 0.1 to 3.
"""

from typing import Literal

from eutectic.adapters.factors import Factors, Spectrum, spectrum
from eutectic.methods.declare import Domain, Fraction, Laws, Needs, Paper, PerModel, combine
from eutectic.methods.site import Site
from eutectic.numerics.spectra import polar
from eutectic.numerics.tensors import Tensor, torch


@combine(
    Paper("arXiv:2603.06242", "DC-Merge", 2026),
    needs=Needs(domain=Domain.FACTORS, scratch=10.0, rank="sum"),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True),
)
def dc_merge(
    site: Site,
    *,
    weight: PerModel = 1.0,  # type: ignore[assignment]
    smooth: Literal["mean", "line"] = "mean",
    steepest: float = 5.0,
    keep: Fraction = 0.001,
    scale: float = 1.0,
) -> Factors:
    """Merges evened spectra in a shared basis: n updates (d_out, r_i) (r_i, d_in) -> (d_out, d_in).

    Args:
        weight: multiplies each update.
        smooth: make singular values their mean, or a falling line with the same sum.
        steepest: of `line`, the most that the largest may be of the smallest (rho).
        keep: share of a task's entries in the shared basis that vote, by magnitude.
        scale: multiplies the merged update.
    """
    weighted = zip(site.factors, weight.tolist(), strict=True)
    parts = [_cut(spectrum(update.scaled(each))) for update, each in weighted]
    left = polar(torch.cat([part.u for part in parts], 1), exact=True)  # (d_out, R)
    right = polar(torch.cat([part.vt for part in parts], 0), exact=True)  # (R, d_in)
    if not left.shape[1]:  # no update does anything
        return site.factors[0].scaled(0.0)
    even = [part.u * _smoothed(part.s, smooth, steepest) for part in parts]
    cores = [(left.T @ u) @ (part.vt @ right.T) for u, part in zip(even, parts, strict=True)]
    votes = torch.stack([_largest(core, keep) for core in cores])  # (n, R, R)
    agree = votes * votes.sum(0).sign() > 0
    merged = votes.where(agree, 0.0).sum(0) / agree.sum(0).clamp(min=1)
    owner = torch.cat([torch.full((len(part.s),), at) for at, part in enumerate(parts)])  # (R,)
    own = owner[:, None] == owner
    kind = site.factors[0].b.dtype
    return Factors((scale * left).to(kind), ((merged * own) @ right).to(kind))


def _cut(found: Spectrum) -> Spectrum:
    """Leaves out null directions."""
    k = int((found.s > found.s[:1] * max(len(found.u), found.vt.shape[1]) * torch.finfo(torch.float64).eps).sum())
    return Spectrum(found.u[:, :k], found.s[:k], found.vt[:k])


def _smoothed(s: Tensor, smooth: str, steepest: float) -> Tensor:
    """Evens singular values (k,) out without changing their sum."""
    if not len(s) or smooth == "mean":
        return s.mean().expand(len(s)) if len(s) else s
    line = torch.linspace(min(steepest, float(s[0] / s[-1])), 1.0, len(s), dtype=s.dtype)
    return line * (s.sum() / line.sum())


def _largest(core: Tensor, keep: float) -> Tensor:
    """Keeps the int(keep * numel) entries of largest magnitude, at least one."""
    flat = core.reshape(-1)
    kept = flat.abs().topk(max(1, int(keep * flat.numel()))).indices
    return torch.zeros_like(flat).index_copy(0, kept, flat[kept]).reshape(core.shape)
