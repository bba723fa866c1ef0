"""Linear: the weighted average of the models themselves.

Source: Wortsman et al., Model soups, ICML 2022, arXiv:2203.05482, section 2: equal weights are the uniform soup. Over
the checkpoints of one run they are SWA (arXiv:1803.05407), and with `weight: sma`, `wma` or `ema` the averages of PMA
(arXiv:2505.12082) and of torch's `swa_utils`. The greedy soup is a search over these weights: `eutectic.greedy_soup`.
Departs: weights may differ; a sum of weights of zero is refused when it would divide.
"""

from eutectic.methods.declare import Laws, Locality, Needs, Paper, PerModel, combine
from eutectic.methods.site import Site, divisor, weighted_sum
from eutectic.numerics.stages import Combination, Numbers
from eutectic.numerics.tensors import Tensor


def _fused(site: Site, *, weight: Numbers, normalize: bool) -> Combination:
    total = divisor(weight, site.name) if normalize else 1.0
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
    total = divisor(tuple(weight.flatten().tolist()), site.name) if normalize else 1.0
    return weighted_sum(weight / total, site.tensors)
