"""TATR: leaves out, of every task, the elements in which tasks are most in each other's way.

Source: Sun et al., Task Arithmetic in Trust Region: A Training-Free Model Merging Approach to Navigate Knowledge
Conflicts, ICLR 2025, arXiv:2501.15065: M = [Omega < eps], Omega = sum over i != j of G_j |T_i|, with eps the quantile
of Omega over all merged parameters; the merge that follows adds M T_k.
Departs: the zero-shot form alone, in which |T_j| stands for the mean magnitude G_j of the base's gradients on task j's
data, so that no data is needed. Compared are the roots of Omega, whose order is the same and which do not overflow. The
rank is fusion_bench's (int(N (1 - ratio)) elements kept where none are equal). Elements without any conflict are kept
also where eps is 0, and `ratio: 0` keeps all.
"""

from collections.abc import Mapping

from eutectic.methods.declare import Fraction, Laws, Locality, Needs, Paper, transform
from eutectic.methods.site import Site
from eutectic.numerics.tensors import Tensor
from eutectic.stats.conflict import ConflictQuantile, conflict
from eutectic.stats.fold import Scope, Statistic


def _folds(*, ratio: float) -> Mapping[str, Statistic]:
    return {"cut": ConflictQuantile(Scope.MODEL, ratio)} if ratio > 0 else {}


@transform(
    Paper("arXiv:2501.15065", "Task Arithmetic in Trust Region", 2025),
    needs=Needs(base=True, locality=Locality.ELEMENT, scratch=8.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True),
    folds=_folds,
)
def tatr(site: Site, *, ratio: Fraction = 0.01) -> Tensor:
    """Zeroes all deltas where they conflict most: (n, *shape) -> (n, *shape).

    Args:
        ratio: share left out over the whole model. Published: 0.001 to 0.05.
    """
    if ratio <= 0:
        return site.deltas
    found = conflict(site.deltas)
    kept = (found < site.fold("cut")) | (found == 0)
    masked: Tensor = site.deltas * kept  # a NaN times 0 is a NaN: it is seen
    return masked
