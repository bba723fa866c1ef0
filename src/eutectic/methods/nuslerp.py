"""NuSLERP: go along the arc between two models, or two task vectors, as far as their weights say.

Source: arcee-ai/mergekit 0.1.5, `nuslerp`; there is no paper. The formula is SLERP's (Shoemake 1985), on the tensors as
they are, with t = w1 / (w0 + w1); norms below 1e-7 count as 1e-7, and on one line the two are interpolated linearly.
Departs: `of: deltas` goes from task vector to task vector around the base, which mergekit does whenever there is one.
`scope: row` takes one arc per row, along the last axis, and `column` one per column: mergekit's `nuslerp_row_wise` is
the other way round from its documentation. Two tensors are on one line where float32 rounds their cosine to 1 or -1,
which is mergekit's rule in its own arithmetic.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from eutectic.methods.declare import Laws, Locality, Needs, Paper, PerModel, combine, exactly
from eutectic.methods.site import Site
from eutectic.numerics.stages import Combination, Floats, Numbers
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Scope, Statistic
from eutectic.stats.weights import Gram

#: 1 - c * c of the least cosine that float32 rounds to 1.
_LINE = 2.0**-24


def coefficients(first: Floats, second: Floats, product: Floats, t: float) -> tuple[Floats, Floats]:
    """Returns what multiplies start and end, from their squared norms and inner products, elementwise."""
    norms = [np.maximum(np.sqrt(np.maximum(square, 0.0)), 1e-7) for square in (first, second)]
    with np.errstate(invalid="ignore"):  # a norm that is infinite, or not a number, makes no angle
        cosine = np.clip(product / norms[0] / norms[1], -1.0, 1.0)
        line = ~(1 - cosine * cosine > _LINE)
    angle = np.arccos(np.where(line, 0.0, cosine))
    sine = np.where(line, 1.0, np.sin(angle))
    start = np.where(line, 1 - t, np.sin((1 - t) * angle) / sine)
    return start, np.where(line, t, np.sin(t * angle) / sine)


def _share(weight: Numbers) -> float:
    """Returns t: the second weight's share; half-way where the weights cancel."""
    total = sum(weight)
    return weight[1] / total if abs(total) >= 1e-6 else 0.5


def _folds(*, of: Literal["weights", "deltas"], scope: str, **_: object) -> Mapping[str, Statistic]:
    return {"gram": Gram(Scope.TENSOR, of)} if scope == "tensor" else {}


def _of_tensor(site: Site, weight: Numbers) -> tuple[float, float]:
    gram = site.fold("gram")[-2:, -2:]  # a base that is there for an adapter's sake comes first
    start, end = coefficients(gram[0, 0], gram[1, 1], gram[0, 1], _share(weight))
    return float(start), float(end)


def _fused(site: Site, *, weight: Numbers, of: Literal["weights", "deltas"], scope: str) -> Combination:
    return Combination(_of_tensor(site, weight), of, anchor=1.0 if of == "deltas" else 0.0)


def _vary(*, of: str, scope: str, **_: object) -> Needs:
    locality = {"tensor": Locality.ELEMENT, "row": Locality.ROW, "column": Locality.TENSOR}[scope]
    if scope == "tensor":
        return Needs(of == "deltas", exactly(2), locality=locality, scratch=1.0)
    return Needs(of == "deltas", exactly(2), locality=locality, fused=False, scratch=5.0)


@combine(
    Paper("github:arcee-ai/mergekit", "mergekit NuSLERP", 2024),
    needs=Needs(models=exactly(2), locality=Locality.ELEMENT, scratch=1.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=True, shift=False, scale=True),
    folds=_folds,
    fused=_fused,
    vary=_vary,
)
def nuslerp(
    site: Site,
    *,
    weight: PerModel = 1.0,  # type: ignore[assignment]
    of: Literal["weights", "deltas"] = "weights",
    scope: Literal["tensor", "row", "column"] = "tensor",
) -> Tensor:
    """Interpolates two models on their arc by weight: (2, *shape) -> (*shape).

    Args:
        weight: how much of each; what counts is their ratio.
        of: the arc between the models themselves, or between their deltas around the base (which it then needs).
        scope: one arc per tensor, per row (along the last axis), or per column.
    """
    first, second = site.deltas if of == "deltas" else site.tensors
    numbers = tuple(weight.flatten().tolist())
    start: float | Tensor
    end: float | Tensor
    if scope == "tensor":
        start, end = _of_tensor(site, numbers)
    else:
        axis = 0 if scope == "column" and first.dim() > 1 else -1
        sums = _sum(first, first, axis), _sum(second, second, axis), _sum(first, second, axis)
        found = coefficients(*sums, t=_share(numbers))
        start, end = (torch.from_numpy(np.asarray(each)).to(first) for each in found)
    merged: Tensor = start * first + end * second
    return site.base + merged if of == "deltas" else merged


def _sum(left: Tensor, right: Tensor, axis: int) -> Floats:
    """Inner products along an axis, which stays with one element; a number is a vector of one."""
    if not left.dim():
        found = left.double() * right.double()
    elif axis:
        found = (left.double() * right.double()).sum(-1, keepdim=True)
    else:  # down the columns some rows at a time, so that the products stay in the cache
        found = torch.zeros_like(left[:1], dtype=torch.float64)
        for one, other in zip(torch.split(left, 16), torch.split(right, 16), strict=True):
            found += (one.double() * other.double()).sum(0, keepdim=True)
    numbers: Floats = found.numpy(force=True)
    return numbers
