"""TATR: leaves out, of every task, the elements in which tasks are most in each other's way.

Source: Sun et al., Task Arithmetic in Trust Region: A Training-Free Model Merging Approach to Navigate Knowledge
Conflicts, ICLR 2025, arXiv:2501.15065: M = [Omega < eps], Omega = sum over i != j of G_j |T_i|, with eps the quantile
of Omega over all merged parameters and G_j the mean magnitude of the gradients that the samples of task j have at the
base, each its own; the merge that follows adds M T_k. `deltas` is the paper's zero-shot form, G_j = |T_j|; `ntk` its
appendix's, sum over i != j of G_j G_i.
Departs: compared are the roots of Omega, whose order is the same and which do not overflow. The rank is fusion_bench's
(int(N (1 - ratio)) elements kept where none are equal). Elements without any conflict are kept also where eps is 0,
and `ratio: 0` keeps all. Tensors that no gradient reaches are not masked and do not count.
"""

from collections.abc import Mapping
from typing import Literal

from eutectic.methods.declare import Fraction, Laws, Locality, Needs, Paper, transform
from eutectic.methods.site import Site
from eutectic.numerics.tensors import Tensor
from eutectic.stats.conflict import ConflictQuantile, conflict
from eutectic.stats.fold import Calibrated, Scope, Statistic
from eutectic.stats.gradients import GradientMagnitude

Sensitivity = Literal["deltas", "gradients", "ntk"]
_GRADIENTS = GradientMagnitude("base")


def _sides(sensitivity: Sensitivity) -> tuple[Calibrated | None, Calibrated | None]:
    return (None if sensitivity == "deltas" else _GRADIENTS, _GRADIENTS if sensitivity == "ntk" else None)


def _folds(*, ratio: float, sensitivity: Sensitivity) -> Mapping[str, Statistic]:
    return {"cut": ConflictQuantile(Scope.MODEL, ratio, *_sides(sensitivity))} if ratio > 0 else {}


def _calibrated(*, ratio: float, sensitivity: Sensitivity) -> Mapping[str, Calibrated]:
    return {"gradients": _GRADIENTS} if ratio > 0 and sensitivity != "deltas" else {}


@transform(
    Paper("arXiv:2501.15065", "Task Arithmetic in Trust Region", 2025),
    needs=Needs(base=True, locality=Locality.ELEMENT, scratch=9.0),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True),
    folds=_folds,
    calibrated=_calibrated,
)
def tatr(site: Site, *, ratio: Fraction = 0.01, sensitivity: Sensitivity = "deltas") -> Tensor:
    """Zeroes all deltas where they conflict most: (n, *shape) -> (n, *shape).

    Args:
        ratio: share left out over the whole model. Published: 0.001 to 0.05.
        sensitivity: what says how much a task minds that an element moves: its own movement (zero-shot), or its
            gradients, which need labelled data; `ntk` compares gradients alone.
    """
    if ratio <= 0:
        return site.deltas
    sides = (site.deltas if side is None else site.fold("gradients").to(site.deltas) for side in _sides(sensitivity))
    found = conflict(*sides)
    kept = (found < site.fold("cut")) | (found == 0)
    masked: Tensor = site.deltas * kept  # a NaN times 0 is a NaN: it is seen
    return masked
