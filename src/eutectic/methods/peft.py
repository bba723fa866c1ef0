"""PEFT's combination types: what `LoraModel.add_weighted_adapter` makes of the factors, for comparison with it.

Source: Hugging Face PEFT 0.21.2, `add_weighted_adapter` and `merge_utils`. With D_i = s_i B_i A_i, weights w_i and
a_i = w_i s_i:

    linear            A = sum sign(a_i) sqrt|a_i| A_i,  B = sum sqrt|a_i| B_i
    ties, dare_linear, dare_ties, magnitude_prune
                      the same on factors that are pruned first; `ties` ones averaged over those with the elected sign
    cat, svd          sum w_i D_i
    *_svd             the combination on the D_i themselves

Only `cat`, `svd` and the other `*_svd` work on what the adapters do. The rest merges A and B apart: their product holds
every cross term B_i A_j, which no adapter learnt, and depends on how an update is split into factors.

Departs: the rank is the recipe's (`output: rank`), by default PEFT's, which is the largest of the adapters'; `svd` and
`cat` do not form the dense update; `cat` of rsLoRA adapters has the right scale (0.21.2 multiplies by the root of the
rank); `svd_clamp` is missing, since its cut depends on the signs that a decomposition happens to give its vectors; a
module that only one of the adapters has is scaled and not pruned.
"""

from dataclasses import replace
from typing import Literal

from eutectic.adapters.factors import Factors, add
from eutectic.errors import MismatchError
from eutectic.methods.declare import Domain, Fraction, Laws, Needs, Paper, PerModel, combine
from eutectic.methods.site import Site
from eutectic.numerics.tensors import Tensor, torch

Type = Literal[
    "linear",
    "cat",
    "svd",
    "ties",
    "ties_svd",
    "dare_linear",
    "dare_linear_svd",
    "dare_ties",
    "dare_ties_svd",
    "magnitude_prune",
    "magnitude_prune_svd",
]


def _needs(*, type: str, **_: object) -> Needs:  # noqa: A002 - the recipe's word, and PEFT's
    dense = type.endswith("_svd")
    rank: Literal["sum", "max"] = "sum" if type == "cat" else "max"
    return Needs(domain=Domain.FACTORS, random="dare" in type, scratch=6.0, dense=6.0 if dense else 0.0, rank=rank)


@combine(
    Paper("github:huggingface/peft", "PEFT add_weighted_adapter", 2023),
    needs=Needs(domain=Domain.FACTORS, random=True, scratch=6.0, rank="max"),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True, gauge=False),
    vary=_needs,
)
def peft(
    site: Site,
    *,
    type: Type = "linear",  # noqa: A002
    weight: PerModel = 1.0,  # type: ignore[assignment]
    density: Fraction = 0.2,
    sign: Literal["total", "frequency"] = "total",
) -> Factors | Tensor:
    """Combines adapters as PEFT does: n updates (d_out, r_i) (r_i, d_in) -> (d_out, d_in).

    Args:
        type: PEFT's `combination_type`; cat and svd are exact sums, those without svd are rough where adapters differ.
        weight: how much of each adapter.
        density: share of each tensor that pruning types keep; 1 keeps all.
        sign: how the ties types elect a sign, by the sum of values or of signs; PEFT's `majority_sign_method`.
    """
    weights = tuple(weight.tolist())
    kind = "linear" if site.n == 1 else type  # PEFT: one adapter is scaled, whatever the type
    if kind in ("cat", "svd"):
        return add(site.factors, weights)
    if kind.endswith("_svd"):
        stack = torch.stack([update.dense() for update in site.factors])  # (n, d_out, d_in)
        return _combined(site, stack, weights, kind.removesuffix("_svd"), density, sign, "delta")
    ranks = {update.rank for update in site.factors}
    if len(ranks) > 1:
        raise MismatchError(
            f"{site.name}: {kind} adds factors of one rank, found {sorted(ranks)}; "
            "take type: svd or cat, which are exact"
        )
    shares = [w * update.scale for w, update in zip(weights, site.factors, strict=True)]
    for_b = tuple(abs(share) ** 0.5 for share in shares)
    for_a = tuple(root if share >= 0 else -root for root, share in zip(for_b, shares, strict=True))
    b = torch.stack([update.b for update in site.factors])  # (n, d_out, r)
    a = torch.stack([update.a for update in site.factors])  # (n, r, d_in)
    return Factors(
        _combined(site, b, for_b, kind, density, sign, "B"), _combined(site, a, for_a, kind, density, sign, "A")
    )


def _combined(
    site: Site, stack: Tensor, weights: tuple[float, ...], kind: str, density: float, sign: str, what: str
) -> Tensor:
    """Prunes, elects and adds n tensors, (n, rows, columns) -> (rows, columns)."""
    if kind.startswith("dare") and density < 1:
        key = replace(site.key, name=f"{site.key.name}:{what}")
        stack = stack * key.keep((density,) * len(stack), stack) / density if density > 0 else torch.zeros_like(stack)
    elif kind in ("ties", "magnitude_prune") and density < 1:
        stack = torch.stack([_largest(each, density) for each in stack])
    scaled = stack * torch.tensor(weights, dtype=stack.dtype).reshape(-1, 1, 1)
    if not kind.endswith("ties"):
        return scaled.sum(0)
    votes = stack if sign == "total" else stack.sign()
    elected = torch.where(votes.sum(0) >= 0, 1.0, -1.0)  # a tie is plus
    agree = stack.sign() == elected
    return (scaled * agree).sum(0) / agree.sum(0).clamp(min=1)


def _largest(tensor: Tensor, density: float) -> Tensor:
    """Keeps the int(density * numel) entries of largest magnitude."""
    flat = tensor.reshape(-1)
    kept = flat.abs().topk(int(max(density, 0.0) * flat.numel())).indices
    return torch.zeros_like(flat).index_copy(0, kept, flat[kept]).reshape(tensor.shape)
