"""NearSwap: where a model is near the base take the model, elsewhere go towards it by a fixed step.

Source: arcee-ai/mergekit 0.1.5, `nearswap` (after alchemonaut's QuartetAnemoi); there is no paper. Each element goes
from the base towards the model by min(t, distance): the share of the model is min(1, t / |delta|).
Departs: mergekit takes |delta| as at least 1e-6, which makes a difference only for t below that.
"""

from eutectic.methods.declare import Laws, Locality, Needs, NonNegative, Paper, combine, exactly
from eutectic.methods.site import Site
from eutectic.numerics.stages import Clip, Combination
from eutectic.numerics.tensors import Tensor


def _fused(site: Site, *, t: float) -> Combination:
    return Combination((1.0,), "deltas", anchor=1.0, stages=(Clip((t,)),))


@combine(
    Paper("github:arcee-ai/mergekit", "mergekit NearSwap", 2024),
    needs=Needs(base=True, models=exactly(1), locality=Locality.ELEMENT, scratch=1.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=False),
    fused=_fused,
)
def nearswap(site: Site, *, t: NonNegative) -> Tensor:
    """Moves each element of the base towards the model, by at most t: (1, *shape) around (*shape) -> (*shape).

    Args:
        t: the longest step, in units of the weights; elements nearer than this become the model's.
    """
    return site.base + site.deltas[0].clamp(-t, t)
