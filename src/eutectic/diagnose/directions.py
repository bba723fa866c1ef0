"""What a merge left of each direction of an adapter's update: does it still act along it, and how strongly.

RobustMerge (arXiv:2502.17159) explains itself by these, in words; the formulas here are one reading of it. Singular
values of a merged update come in another order than the adapter's, so the `response` is the better of the two.
"""

from dataclasses import dataclass

from eutectic.adapters.factors import Factors, spectrum
from eutectic.numerics.tensors import Tensor, torch


@dataclass(frozen=True, eq=False)
class Directions:
    """One number for each direction i of an update, u_i s_i v_i^T, strongest first; float64, (k,).

    Attributes:
        left: |cos| of u_i and the merged update's i-th left vector; 0 where it has none.
        right: the same of v_i.
        ratio: the merged update's i-th singular value over s_i.
        response: cos of u_i and z_i, what the merged update makes of v_i; 0 where that is nothing.
        response_ratio: length of z_i along u_i, over s_i: 1 where the direction is as it was.
    """

    left: Tensor
    right: Tensor
    ratio: Tensor
    response: Tensor
    response_ratio: Tensor


def directions(update: Factors, merged: Factors) -> Directions:
    """Compares an adapter's update with a merged one of the same (d_out, d_in), direction by direction.

    Directions within rounding of zero are left out, so k is the update's true rank.

    Raises:
        ValueError: when the shapes differ.
    """
    if update.shape != merged.shape:
        raise ValueError(f"expected updates of one shape, found {update.shape} and {merged.shape}")
    own, other = spectrum(update), spectrum(merged)
    k = int((own.s > own.s[:1] * max(update.shape) * torch.finfo(torch.float64).eps).sum())
    u, s, vt = own.u[:, :k], own.s[:k], own.vt[:k]
    z = merged.b.double() @ (merged.a.double() @ vt.T) * merged.scale  # (d_out, k)
    along, length = (u * z).sum(0), z.norm(dim=0)
    here = min(k, len(other.s))
    left, right, ratio = torch.zeros(3, k, dtype=torch.float64)
    left[:here] = (u[:, :here] * other.u[:, :here]).sum(0).abs()
    right[:here] = (vt[:here] * other.vt[:here]).sum(1).abs()
    ratio[:here] = other.s[:here] / s[:here]
    return Directions(left, right, ratio, along / length.where(length > 0, 1.0), along / s)
