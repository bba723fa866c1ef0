"""KnOTS: coordinates of adapters' updates in the left singular vectors that all of them share.

Source: Stoica et al., Model merging with SVD to tie the KnOTS, ICLR 2025, arXiv:2410.19735, section 4, and the authors'
code. [D_1 | .. | D_n] = U S [V_1^T | .. | V_n^T]; adapter i is merged as S V_i^T, (k, d_in), by whatever comes next in
the chain, and U carries the result back. A plain sum is the same as without it. For KnOTS-TIES:
`[knots, {ties: {density: 0.2, scale: 0.6, tie: majority}}]`, with `dare` in between for KnOTS-DARE-TIES.

Departs: updates have their scales (alpha / r), which the code ignores; directions within rounding of zero have zero
coordinates, where the code drops singular values up to 1e-5, whatever the size of the updates. The decomposition is of
factors (QR, then of ranks by ranks), which is the same.
"""

from eutectic.methods.declare import Domain, Laws, Needs, Paper, transform
from eutectic.methods.site import Coordinates, Site
from eutectic.numerics.tensors import Tensor, torch


@transform(
    Paper("arXiv:2410.19735", "KnOTS", 2025),
    needs=Needs(domain=Domain.FACTORS, scratch=8.0, basis="out"),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True),
)
def knots(site: Site) -> Coordinates:
    """Gives updates coordinates in shared columns: n (d_out, r_i) (r_i, d_in) -> (n, min(d_out, sum r), d_in)."""
    rows = [torch.linalg.qr(update.a.double().T) for update in site.factors]  # (d_in, q_i), (q_i, r_i)
    columns, small = torch.linalg.qr(torch.cat([each.b.double() * each.scale for each in site.factors], 1))
    parts = small.split([each.rank for each in site.factors], 1)
    cores = [part @ turn.T for part, (_, turn) in zip(parts, rows, strict=True)]  # (k, q_i)
    u, s, _ = torch.linalg.svd(torch.cat(cores, 1), full_matrices=False)
    k = columns.shape[1]
    turned = _filled(u * (s > s[:1] * max(small.shape) * torch.finfo(torch.float64).eps), k)
    values = torch.stack([turned.T @ core @ row.T for core, (row, _) in zip(cores, rows, strict=True)])
    kind = site.factors[0].b.dtype
    return Coordinates(values.to(kind), columns @ turned)


def _filled(vectors: Tensor, k: int) -> Tensor:
    """Appends zero columns up to k."""
    return torch.cat([vectors, vectors.new_zeros(len(vectors), k - vectors.shape[1])], 1)
