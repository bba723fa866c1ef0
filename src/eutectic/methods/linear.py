"""Linear: the weighted average of the models themselves.

Source: Wortsman et al., Model soups, ICML 2022, arXiv:2203.05482 (uniform soup: equal weights).
Departs: weights may differ; a sum of weights of zero is refused when it would divide.
"""

from eutectic.errors import RecipeError
from eutectic.methods.declare import Laws, Locality, Needs, Paper, PerModel, combine
from eutectic.methods.site import Site, weighted_sum
from eutectic.numerics.stages import Combination, Numbers
from eutectic.numerics.tensors import Tensor


def _divisor(weight: Numbers, normalize: bool, name: str) -> float:
    """Returns what the weighted sum is divided by."""
    if not normalize:
        return 1.0
    total = sum(weight)
    if abs(total) <= 1e-6 * sum(map(abs, weight)):  # 0.1 + 0.2 - 0.3 is not 0 in floats
        raise RecipeError(f"{name}: weights add up to 0 and cannot be normalized; change them or set normalize: false")
    return total


def _fused(site: Site, *, weight: Numbers, normalize: bool) -> Combination:
    total = _divisor(weight, normalize, site.name)
    return Combination(tuple(w / total for w in weight), "weights")


@combine(
    Paper("arXiv:2203.05482", "Model soups", 2022),
    needs=Needs(locality=Locality.ELEMENT, scratch=1.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=True, shift=True, scale=True),
    fused=_fused,
)
def linear(site: Site, *, weight: PerModel = 1.0, normalize: bool = True) -> Tensor:  # type: ignore[assignment]
    """Averages the models, element by element: (n, *shape) -> (*shape).

    Args:
        weight: how much of each model; negative weights are allowed.
        normalize: divide by the sum of the weights.
    """
    total = _divisor(tuple(weight.flatten().tolist()), normalize, site.name)
    return weighted_sum(weight / total, site.tensors)
