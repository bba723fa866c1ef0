"""Task arithmetic: add what each model learnt to the base.

Source: Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023, arXiv:2212.04089, section 2: addition,
negation (a negative weight) and analogy (weights 1, 1, -1).
Departs: `normalize` divides by the sum of the weights, as mergekit offers.
"""

from eutectic.methods.declare import Laws, Locality, Needs, Paper, PerModel, combine
from eutectic.methods.site import Site, weighted_sum
from eutectic.numerics.stages import Combination, Numbers
from eutectic.numerics.tensors import Tensor


def _factor(weight: Numbers, scale: float, normalize: bool) -> float:
    """Returns what multiplies the weighted sum; a sum of weights near zero does not divide."""
    total = sum(weight)
    return scale / total if normalize and abs(total) >= 1e-8 else scale


def _fused(site: Site, *, weight: Numbers, scale: float, normalize: bool) -> Combination:
    return Combination(weight, "deltas", anchor=1.0, scale=_factor(weight, scale, normalize))


@combine(
    Paper("arXiv:2212.04089", "Editing Models with Task Arithmetic", 2023),
    needs=Needs(base=True, locality=Locality.ELEMENT, scratch=1.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True),
    fused=_fused,
)
def task_arithmetic(
    site: Site,
    *,
    weight: PerModel = 1.0,  # type: ignore[assignment]
    scale: float = 1.0,
    normalize: bool = False,
) -> Tensor:
    """Adds the weighted sum of the deltas to the base: (n, *shape) around (*shape) -> (*shape).

    Args:
        weight: how much of each delta; negative forgets.
        scale: multiplies the sum (lambda); about 0.3 to 0.4 for eight models, 1 / n for the average.
        normalize: divide the sum by the sum of the weights.
    """
    factor = _factor(tuple(weight.flatten().tolist()), scale, normalize)
    return site.base + factor * weighted_sum(weight, site.deltas)
