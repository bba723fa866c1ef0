"""MagMax: at each element, the largest change of all.

Source: Marczak et al., MagMax: Leveraging Model Merging for Seamless Continual Learning, ECCV 2024, arXiv:2407.06322,
section 4: of all task vectors' values at an element the one of largest magnitude is taken, then scaled.
Departs: weights may differ per model and enter the comparison; of equal magnitudes the later model's is taken, as in
fusion_bench. The paper tunes the scale; 0.5 is fusion_bench's.
"""

from eutectic.methods.declare import Laws, Locality, Needs, Paper, PerModel, combine
from eutectic.methods.site import Site
from eutectic.numerics.stages import Combination, Numbers
from eutectic.numerics.tensors import Tensor


def _fused(site: Site, *, weight: Numbers, scale: float) -> Combination:
    return Combination(weight, "deltas", 1.0, scale, "largest")


@combine(
    Paper("arXiv:2407.06322", "MagMax", 2024),
    needs=Needs(base=True, locality=Locality.ELEMENT, scratch=2.0),
    laws=Laws(symmetric=False, fixed_point=True, identity=False, shift=True, scale=True),
    fused=_fused,
)
def magmax(site: Site, *, weight: PerModel = 1.0, scale: float = 0.5) -> Tensor:  # type: ignore[assignment]
    """Takes the largest delta at each element: (n, *shape) around (*shape) -> (*shape).

    Args:
        weight: multiplies each delta before they are compared.
        scale: multiplies the merged delta (lambda).
    """
    deltas = weight * site.deltas
    largest = deltas[0]
    for row in deltas[1:]:
        largest = row.where((row.abs() >= largest.abs()) | row.isnan(), largest)  # a NaN stays, so that it is seen
    return site.base + scale * largest
