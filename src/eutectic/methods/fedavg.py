"""FedAvg of factors: what most servers of federated LoRA do with their clients' adapters.

Source: McMahan et al., Communication-Efficient Learning of Deep Networks, AISTATS 2017, arXiv:1602.05629, applied to
the factors as FedIT (arXiv:2305.05644) does. With p_k = weight_k / sum weight: A = sum p_k A_k, B = sum p_k B_k. It is
not the average of the updates: their product has the cross terms B_i A_j, which no client learnt (exact where all
clients share A, as in FFA-LoRA). The exact ones are a weighted sum in factors (FLoRA) and a residual in the base
(FedEx-LoRA); `eutectic.aggregate` makes the recipes of all.

Departs: scales (alpha / r) are folded into B, which changes nothing while all are equal. Smaller ranks are filled with
zeros, as FLoRA's comparison does; it weakens the directions that few clients have.
"""

from eutectic.adapters.factors import Factors, overlay
from eutectic.methods.declare import Domain, Laws, Needs, Paper, PerModelWeight, combine
from eutectic.methods.site import Site, divisor


@combine(
    Paper("arXiv:1602.05629", "FedAvg, on the factors of adapters", 2017),
    needs=Needs(domain=Domain.FACTORS, scratch=3.0, rank="max"),
    laws=Laws(symmetric=True, fixed_point=True, identity=True, shift=True, scale=True, gauge=False),
)
def fedavg(
    site: Site,
    *,
    weight: PerModelWeight = 1.0,  # type: ignore[assignment]
) -> Factors:
    """Averages A and B apart, not what adapters do: n updates (d_out, r_i) (r_i, d_in) -> (d_out, d_in).

    Args:
        weight: each client's share, such as its number of samples; divided by their sum.
    """
    weights = tuple(weight.tolist())
    total = divisor(weights, site.name)
    shares = [each / total for each in weights]
    parts = [update.folded() for update in site.factors]
    b = overlay([part.b.T * share for part, share in zip(parts, shares, strict=True)]).T
    return Factors(b.contiguous(), overlay([part.a * share for part, share in zip(parts, shares, strict=True)]))
