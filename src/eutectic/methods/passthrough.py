"""Passthrough: one model's tensors as they are, for assembling a model from slices of others.

Source: arcee-ai/mergekit 0.1.5, `passthrough` with its `scale`; there is no paper.
"""

from eutectic.methods.declare import Laws, Locality, Needs, Paper, combine, exactly
from eutectic.methods.site import Site
from eutectic.numerics.stages import Combination
from eutectic.numerics.tensors import Tensor


def _fused(site: Site, *, scale: float) -> Combination:
    return Combination((1.0,), "weights", scale=scale)


@combine(
    Paper("github:arcee-ai/mergekit", "mergekit passthrough", 2024),
    needs=Needs(models=exactly(1), locality=Locality.ELEMENT, scratch=1.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=True, shift=True, scale=True),
    fused=_fused,
)
def passthrough(site: Site, *, scale: float = 1.0) -> Tensor:
    """Takes the one model's tensor: (1, *shape) -> (*shape).

    Args:
        scale: multiplies it; 0 on the output projections of a repeated block makes that block an identity.
    """
    return scale * site.tensors[0]
