import functools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from eutectic.engine.chain import Request
from eutectic.engine.reader import Worker
from eutectic.stats.fold import Again, Scope, Statistic
from eutectic.stats.importance import ImportanceFence, RowDivergence, divergence
from tests.make.sites import Job

ROWS = RowDivergence(Scope.TENSOR)
FENCE = ImportanceFence(Scope.TENSOR, ROWS)
SHAPE = (40, 33)


def job(double: bool = False, fused: bool = True) -> Job:
    """Returns a merge of one model into a base."""
    source = torch.Generator().manual_seed(0)
    base = torch.randn(SHAPE, generator=source, dtype=torch.float64 if double else torch.float32)
    model = base + torch.randn(SHAPE, generator=source, dtype=base.dtype) / 50
    return Job([("arcee_fusion", {})], [model], base, double=double, fused=fused)


def slices(rows: int, backwards: bool) -> Iterator[tuple[int, int]]:
    """Yields stretches of so many rows."""
    starts = range(0, SHAPE[0], rows)
    for start in reversed(starts) if backwards else starts:
        yield start * SHAPE[1], min(SHAPE[0], start + rows) * SHAPE[1]


def sweep(merge: Job, statistic: Statistic, rows: int, shares: int = 1, backwards: bool = False) -> object:
    """Shows every slice to a statistic, whose states are shared between several and joined."""
    (chain,), worker = merge.chains, Worker(merge.inputs)
    for before in statistic.after:
        chain.accept(Request(0, before), sweep(merge, before, SHAPE[0]))
    state = statistic.init([chain.part], 1, chain.double)
    while True:
        states = [state] + [statistic.init([chain.part], 1, chain.double) for _ in range(shares - 1)]
        for other in states[1:]:
            if hasattr(state, "low"):
                other.low, other.shift = state.low, state.shift
        for at, (start, stop) in enumerate(slices(rows, backwards)):
            seen = chain.seen(Request(0, statistic), worker.load(chain, start, stop))
            statistic.update(states[at % shares], seen)
        result = statistic.finish(functools.reduce(statistic.combine, states))
        if not isinstance(result, Again):
            return result
        state = result.state


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
@pytest.mark.parametrize("statistic", [ROWS, FENCE], ids=["divergence", "fence"])
def test_showing_changes_nothing(statistic: Statistic, fused: bool, double: bool) -> None:
    """Rows one by one, many at once, from behind, or shared between states: the same bits."""
    whole = sweep(job(double, fused), statistic, SHAPE[0])
    for rows, shares, backwards in ((1, 1, False), (7, 1, True), (3, 4, False), (7, 3, True)):
        assert np.array_equal(
            np.asarray(sweep(job(double, fused), statistic, rows, shares, backwards)), np.asarray(whole)
        )


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_against_sorting(double: bool) -> None:
    """The quartiles are the elements at int(share * (n - 1)) of all in order."""
    merge = job(double)
    rows = sweep(merge, ROWS, 5)
    assert isinstance(rows, np.ndarray)
    site = merge.chains[0]
    site.fused = False
    seen = site.seen(Request(0, ROWS), Worker(merge.inputs).load(site, 0, SHAPE[0] * SHAPE[1]))
    deltas = seen.deltas.reshape(SHAPE)
    order = (deltas.abs() * torch.from_numpy(rows).to(deltas)[:, None]).flatten().sort().values
    site.fused = True
    assert order.dtype == (torch.float64 if double else torch.float32)
    first, median, third = (float(order[int(share * (len(order) - 1))]) for share in (0.25, 0.5, 0.75))
    assert sweep(merge, FENCE, 9) == median + 1.5 * (third - first)


def test_divergence_by_hand() -> None:
    """Softmaxes (3/4, 1/4) and (1/2, 1/2): 3/4 log(3/2) + 1/4 log(1/2); equal rows diverge by 0, never by less."""
    model, base = torch.tensor([[3.0, 1.0]]).log().double(), torch.zeros(1, 2).double()
    assert float(divergence(model, base, 0.0)) == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    source = torch.Generator().manual_seed(1)
    rows = torch.randn(500, 64, generator=source).double()
    assert (divergence(rows, rows, 1e-8) == 0).all()
    assert (divergence(rows, rows * (1 + 1e-12), 1e-8) >= 0).all()


def test_states_are_as_large_as_they_say() -> None:
    """The plan pays for states by `nbytes`."""
    part = job().chains[0].part
    assert ROWS.init([part], 1, False).nbytes == ROWS.nbytes([part], 1) == 8 * 40
    state = FENCE.init([part], 1, False)
    assert state.bins.nbytes <= FENCE.nbytes([part], 1)
