"""RobustMerge: prune both factors, and lift the directions that pruning weakened.

Source: Zeng et al., RobustMerge, NeurIPS 2025, arXiv:2502.17159, Algorithm 1, and the authors' code. Of n adapters with
factors B_n (d_out, r) and A_n (r, d_in), `keep` of the entries of largest magnitude stay in each, B~_n and A~_n. Row i
of A_n gives S_n[i] = sum |A_n[i]| / sum |A~_n[i]|, and with T_n[i] = S_n[i] / sum_m S_m[i]

    paper   update = scale * sum_n B~_n diag(T_n) A~_n
    code    B = scale * sum_n B~_n diag(T_n),  A = scale * sum_n A~_n,  update = B A

In the code `scale` so counts twice, all cross terms of adapters are there, and S_n is raised first to its own value at
the share 1 - `clamp` of its sorted rows (with up to five rows, to its largest). The k-th smallest magnitude and all
above it are kept, k = int((1 - keep) * numel).

Departs: scales of adapters (alpha / r) are folded into B_n; the code ignores all but the first's. Ranks may differ:
direction i is merged of the adapters that have it. A row of A that is pruned away has the largest S of its adapter;
in the code it makes NaN. Statistics are in the work precision, the code's in the adapters' (bfloat16). `weight` is not
in the paper; the code variant gives its root to each factor and its sign to A.
"""

from typing import Literal

from eutectic.adapters.factors import Factors, add, overlay
from eutectic.methods.declare import Domain, Fraction, Laws, Needs, Paper, PerModel, combine
from eutectic.methods.site import Site
from eutectic.numerics.tensors import Tensor


def _needs(*, variant: str, **_: object) -> Needs:
    return Needs(domain=Domain.FACTORS, scratch=6.0, rank="sum" if variant == "paper" else "max")


@combine(
    Paper("arXiv:2502.17159", "RobustMerge", 2025),
    needs=Needs(domain=Domain.FACTORS, scratch=6.0, rank="max"),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True, gauge=False),
    vary=_needs,
)
def robustmerge(
    site: Site,
    *,
    variant: Literal["code", "paper"] = "code",
    weight: PerModel = 1.0,  # type: ignore[assignment]
    keep: Fraction = 0.2,
    scale: float = 2.0,
    clamp: Fraction = 0.2,
    normalize: bool = True,
) -> Factors:
    """Prunes adapters and lifts their weak directions: n updates (d_out, r_i) (r_i, d_in) -> (d_out, d_in).

    Args:
        variant: merge the factors as the authors' code does, to the largest rank; or add up the tasks' products as the
            paper says, to the sum of the ranks.
        weight: how much of each adapter.
        keep: share of each factor that is kept, by magnitude.
        scale: multiplies the merged update in `paper`, both merged factors in `code`.
        clamp: of `code`, the share of directions whose lift may exceed that of the rest; 0 leaves all as they are.
        normalize: divide the lifts by their sum over the adapters.
    """
    whole = [update.folded() for update in site.factors]
    pruned = [Factors(_pruned(update.b, keep), _pruned(update.a, keep)) for update in whole]
    lifts = [_lift(update.a, kept.a) for update, kept in zip(whole, pruned, strict=True)]
    if variant == "code":
        lifts = [_raised(lift, clamp) for lift in lifts]
    if normalize:
        total = overlay(lifts)
        lifts = [lift / total[: len(lift)] for lift in lifts]
    lifted = [Factors(kept.b * lift, kept.a) for kept, lift in zip(pruned, lifts, strict=True)]
    weights = weight.tolist()
    if variant == "paper":
        return add(lifted, [scale * each for each in weights])
    roots = [abs(each) ** 0.5 for each in weights]
    b = overlay([update.b.T * root for update, root in zip(lifted, roots, strict=True)]).T
    signed = [root if each >= 0 else -root for each, root in zip(weights, roots, strict=True)]
    a = overlay([update.a * root for update, root in zip(lifted, signed, strict=True)])
    return Factors(scale * b, scale * a)


def _pruned(factor: Tensor, keep: float) -> Tensor:
    """Zeroes what is smaller than the k-th smallest magnitude."""
    k = int(factor.numel() * (1 - keep))
    if k < 1:
        return factor
    size = factor.abs()
    return factor.where(size >= size.reshape(-1).kthvalue(k).values, 0.0)


def _lift(whole: Tensor, kept: Tensor) -> Tensor:
    """Returns how much smaller pruning made each row, (r,): at least 1, and finite."""
    before, after = whole.abs().sum(1), kept.abs().sum(1)
    found = before / after.where(after > 0, 1.0)
    most = found.where(after > 0, 1.0).max()
    return found.where(after > 0, most)


def _raised(lift: Tensor, clamp: float) -> Tensor:
    """Raises lifts to the one at a share of their sorted row; the largest `clamp` of them stay."""
    at = int(len(lift) * (1 - clamp))
    return lift.clamp(min=float(lift.sort().values[at])) if at < len(lift) else lift
