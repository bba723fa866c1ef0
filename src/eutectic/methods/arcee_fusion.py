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
from eutectic.numerics.tensors import Tensor
from eutectic.stats.fold import Scope, Statistic
from eutectic.stats.importance import ImportanceFence, RowDivergence, importance


def _folds(**_: object) -> Mapping[str, Statistic]:
    rows = RowDivergence(Scope.TENSOR)
    return {"rows": rows, "fence": ImportanceFence(Scope.TENSOR, rows)}


@combine(
    Paper("github:arcee-ai/mergekit", "mergekit Arcee Fusion", 2025),
    needs=Needs(base=True, models=exactly(1), locality=Locality.ROW, scratch=6.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=False, scale=False),
    folds=_folds,
)
def arcee_fusion(site: Site) -> Tensor:
    """Takes the elements whose change stands out from the model: (1, *shape) around (*shape) -> (*shape)."""
    model, deltas = site.tensors[0], site.deltas[0]
    width = max(1, deltas.shape[-1] if deltas.dim() else 1)
    rows = deltas.reshape(-1, width)
    first = site.start // width
    weights = importance(rows, site.fold("rows")[first : first + len(rows)]).reshape(deltas.shape)
    return model.where(~(weights < site.fold("fence")), site.base)  # what is not a number is taken, and seen
