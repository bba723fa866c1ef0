"""Arcee Fusion: take from a model the elements whose change stands out, and leave the rest at the base.

Source: arcee-ai/mergekit 0.1.5, `arcee_fusion`; there is no paper. An element's importance is |delta| times the
Kullback-Leibler divergence of its row (the last axis) from the base's, both made distributions by a softmax. Taken is
what reaches median + 1.5 * (third - first quartile) of the tensor's importances.
Departs: quartiles are those of all elements, where mergekit samples tensors of more than a million. A divergence is
never below 0. As in mergekit, a tensor of which three quarters did not change has a threshold of 0: all of it is taken.
"""

from collections.abc import Mapping

from eutectic.methods.declare import Laws, Locality, Needs, Paper, combine, exactly
from eutectic.methods.site import Site
from eutectic.numerics.stages import Combination, RowTrim, apply
from eutectic.numerics.tensors import Tensor
from eutectic.stats.fold import Scope, Statistic
from eutectic.stats.importance import ImportanceFence, RowDivergence


def _folds(**_: object) -> Mapping[str, Statistic]:
    rows = RowDivergence(Scope.TENSOR)
    return {"rows": rows, "fence": ImportanceFence(Scope.TENSOR, rows)}


def _fused(site: Site) -> Combination:
    trim = RowTrim(site.fold("fence"), site.fold("rows"), site.width)
    return Combination((1.0,), "deltas", anchor=1.0, stages=(trim,))


@combine(
    Paper("github:arcee-ai/mergekit", "mergekit Arcee Fusion", 2025),
    needs=Needs(base=True, models=exactly(1), locality=Locality.ELEMENT, scratch=6.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=False, scale=False),
    folds=_folds,
    fused=_fused,
)
def arcee_fusion(site: Site) -> Tensor:
    """Takes the elements whose change stands out from the model: (1, *shape) around (*shape) -> (*shape)."""
    trim = RowTrim(site.fold("fence"), site.fold("rows"), site.width)
    return site.base + apply(trim, site.deltas, site.key)[0]
