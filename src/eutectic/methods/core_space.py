"""Core Space: coordinates of adapters' updates between the columns and rows that all of them share.

Source: Panariello et al., Accurate and Efficient Low-Rank Model Merging in Core Space, NeurIPS 2025, arXiv:2509.17786,
section 4, and the authors' code. U are the left singular vectors of [B_1 | .. | B_n], V^T the right ones of the stacked
A_i; adapter i is merged as M_i = U^T B_i A_i V, ranks by ranks, by whatever comes next in the chain, and U M V^T is
the result. Nothing is lost: U M_i V^T = B_i A_i. A plain sum is the same as without it. For what the paper compares:
`[core_space, {ties: {density: 0.1, scope: tensor}}]`, or `tsv_m`. The code can flatten the merged spectrum; that is
`iso_c` over this merge as a stage.

What is merged does not depend on the factors' split, but the basis does: (B R)(R^-1 A) has other singular vectors, so
a method that looks at single elements (TIES) sees others.
Departs: updates have their scales (alpha / r), folded into B; the code ignores them.
"""

from eutectic.methods.declare import Domain, Laws, Needs, Paper, transform
from eutectic.methods.site import Coordinates, Site
from eutectic.numerics.tensors import torch


@transform(
    Paper("arXiv:2509.17786", "Core Space", 2025),
    needs=Needs(domain=Domain.FACTORS, scratch=8.0, basis="both"),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True),
)
def core_space(site: Site) -> Coordinates:
    """Gives updates coordinates in shared columns and rows: n (d_out, r_i) (r_i, d_in) -> (n, k, m), ranks by ranks."""
    columns = [update.b.double() * update.scale for update in site.factors]
    rows = [update.a.double() for update in site.factors]
    left = torch.linalg.svd(torch.cat(columns, 1), full_matrices=False)[0]  # (d_out, k)
    right = torch.linalg.svd(torch.cat(rows, 0), full_matrices=False)[2]  # (m, d_in)
    values = torch.stack([(left.T @ b) @ (a @ right.T) for b, a in zip(columns, rows, strict=True)])
    return Coordinates(values.to(site.factors[0].b.dtype), left, right)
