"""WUDI: steps from the deltas' sum towards a delta that disturbs no task's linear layers.

Source: Cheng et al., Whoever Started the Interference Should End It (WUDI-Merging), ICML 2025, arXiv:2503.08099,
equation (12), and the authors' code. X starts at sum_i D_i and takes Adam steps (betas 0.9 and 0.999, eps 1e-8) on
sum_i |(X - D_i) D_i^T|^2 / |D_i|^2. The gradient is 2 (X A - B) with A = sum_i D_i^T D_i / |D_i|^2 and
B = sum_i D_i D_i^T D_i / |D_i|^2, so a step costs the same for any number of tasks. A step moves an element by about
`rate` at most: the method is no function of the deltas' proportions alone, and `rate` suits deltas of 1e-4 to 1e-3.
Departs: steps are computed in float64. A task whose delta is zero here takes no part (the authors' code divides by its
norm). Where the deltas have few rows or directions in all, A is not formed but multiplied by in two factors. `weight`
multiplies a delta before anything else. The authors merge the four linear layers of each block and keep the base
elsewhere (`tensors: linear`, `others: base`); fusion_bench takes every matrix, averages the rest and makes 400 steps
(`tensors: matrices`, `others: mean`, `steps: 400`).
"""

from typing import Annotated, Literal

from eutectic.methods.declare import Bounds, Elsewhere, Laws, Locality, Needs, Paper, PerModel, combine
from eutectic.methods.matrices import Tensors, domain, mean_elsewhere
from eutectic.methods.site import Site, weighted_sum
from eutectic.numerics.adam import Adam
from eutectic.numerics.spectra import gram, low_rank, times
from eutectic.numerics.tensors import Tensor, torch

#: Rows of X that take their steps together; each row's steps are its own, given A.
_ROWS = 256


def _scratch(n: int, shape: tuple[int, ...]) -> float:
    rows, columns = shape
    inner = columns if columns <= 2 * n * rows else n * rows
    return 12.0 * inner * min(inner, columns) + (n + 16.0) * rows * columns + 2048.0 * columns


def _needs(*, tensors: str, **_: object) -> Needs:
    return Needs(base=True, locality=Locality.TENSOR, domain=domain(tensors), scratch=_scratch)


def _elsewhere(n: int, *, others: str, **_: object) -> Elsewhere:
    return mean_elsewhere(n, scale=1.0) if others == "mean" else Elsewhere(None)


def _map(units: Tensor) -> tuple[Tensor, ...]:
    """Returns what X is multiplied by in turn to make X A, in float64, given D_i / |D_i| (n, d_out, d_in)."""
    rows = units.flatten(0, 1)
    found = low_rank(rows)
    if found is not None:
        return (found.v * found.s.square()).double(), found.v.T.double()
    return (gram(rows),) if rows.shape[1] <= 2 * rows.shape[0] else (rows.T.double(), rows.double())


@combine(
    Paper("arXiv:2503.08099", "WUDI-Merging", 2025),
    needs=_needs(tensors="linear"),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=False),
    vary=_needs,
    elsewhere=_elsewhere,
)
def wudi(
    site: Site,
    *,
    weight: PerModel = 1.0,  # type: ignore[assignment]
    steps: Annotated[int, Bounds(0)] = 300,
    rate: Annotated[float, Bounds(0.0)] = 1e-5,
    others: Literal["base", "mean"] = "base",
    tensors: Tensors = "linear",
) -> Tensor:
    """Adds a delta that disturbs no task: (n, d_out, d_in) around (d_out, d_in) -> (d_out, d_in).

    Args:
        weight: multiplies each delta.
        steps: how many steps; the minimum itself is worse than to stop early.
        rate: of Adam: about how far a step moves an element.
        others: what the other tensors become: the base's, or moved by the mean of the deltas.
        tensors: merge the linear maps this way, or every matrix.
    """
    deltas = weight * site.deltas
    norms = deltas.double().flatten(1).norm(dim=1)
    present = [at for at in range(site.n) if norms[at] != 0]  # a NaN stays, so that it is seen
    merged = weighted_sum(torch.ones_like(weight), deltas)
    if not present or merged.numel() == 0:
        return site.base + merged
    units = torch.stack([deltas[at] / norms[at] for at in present])
    factors = _map(units)
    target = torch.zeros_like(merged, dtype=torch.float64)
    for at, part in zip(present, site.each(_cube, units), strict=True):
        target += norms[at] * part
    blocks = zip(torch.split(merged, _ROWS), torch.split(target, _ROWS), strict=True)
    return site.base + torch.cat(site.each(lambda block: _descend(*block, factors, steps, rate), blocks))


def _cube(unit: Tensor) -> Tensor:
    """Returns D D^T D in float64."""
    return times(unit.T, gram(unit.T)).T if len(unit) < unit.shape[1] else times(unit, gram(unit))


def _descend(start: Tensor, target: Tensor, factors: tuple[Tensor, ...], steps: int, rate: float) -> Tensor:
    """Takes the steps of some rows (rows, d_in).

    Adam divides gradients by their own size: rounding errors where there is no gradient would be steps in float32.
    """
    adam = Adam(start.double(), rate)
    for _ in range(steps):
        image = adam.values
        for factor in factors:
            image = image @ factor
        adam.step(2 * (image - target))
    return adam.values.to(start.dtype)
