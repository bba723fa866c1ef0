"""Factorwise: A and B of adapters as tensors of their own, merged apart by whatever comes next in the chain.

Source: Zeng et al., RobustMerge, NeurIPS 2025, arXiv:2502.17159, appendix D, whose baselines (task arithmetic, TIES,
DARE, PCB) run on the factors of adapters. Of n adapters with factors B_n (d_out, r) and A_n (r, d_in), the chain merges
all B_n as if they were one weight of n models and all A_n as another, and B A is the update. So PCB on factors is
`[factorwise, pcb]`. It is not a merge of the updates: B A has every cross term B_i A_j, which no adapter learnt, and
depends on how an update is split into factors. Without this step methods see the updates themselves.

Departs: B_n is multiplied by s_n / s, s_n being the adapter's scale (alpha / r) and s the largest, which multiplies the
product; the papers' adapters have one scale, and then factors are merged as they are stored. Smaller ranks are filled
with zeros.
"""

from eutectic.adapters.factors import overlay
from eutectic.methods.declare import Domain, Laws, Needs, Paper, transform
from eutectic.methods.site import Coordinates, Site
from eutectic.numerics.tensors import Tensor, torch


@transform(
    Paper("arXiv:2502.17159", "RobustMerge, its baselines on factors", 2025),
    needs=Needs(domain=Domain.FACTORS, scratch=3.0, basis="factors"),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True, gauge=False),
)
def factorwise(site: Site) -> Coordinates:
    """Merges A and B apart: n updates (d_out, r_i) (r_i, d_in) -> (n, d_out, r) and (n, r, d_in), r the largest."""
    most = max(abs(update.scale) for update in site.factors) or 1.0
    rank = max(update.rank for update in site.factors)
    b = torch.stack([_filled(update.b.T * (update.scale / most), rank).T for update in site.factors])
    a = torch.stack([_filled(update.a, rank) for update in site.factors])
    return Coordinates(b, rights=a, scale=most)


def _filled(rows: Tensor, rank: int) -> Tensor:
    """Appends zero rows up to a rank."""
    return overlay([rows, rows.new_zeros(rank, rows.shape[1])])
