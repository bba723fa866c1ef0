"""Three ways to visit a site, one result; what is done is not done again."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import eutectic.methods
from eutectic.engine.execute import STRETCH, Executor, _stretches, pieces
from eutectic.engine.run import chains_of
from eutectic.methods.declare import Laws, Locality, Needs, Paper, combine
from eutectic.methods.site import Site, weighted_sum
from eutectic.numerics.kernels import GRAIN
from eutectic.numerics.stages import Combination
from eutectic.plan.steps import Plan
from eutectic.stats.fold import OfWeights, Part, Scope, Seen, Statistic
from tests.engine.sites import Collected, normal, planned
from tests.make.sites import Job

NAME = "a.weight"
SIZE = (5, GRAIN - 3)


@pytest.fixture(scope="module")
def ties(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """TIES, with a cut per tensor, of two models with a tensor of almost five grains and a small one."""
    tensors = [{NAME: normal(*SIZE, seed=seed), "b.weight": normal(7, seed=seed)} for seed in range(3)]
    method = {"ties": {"density": 0.4, "scope": "tensor"}}
    return planned(tmp_path_factory.mktemp("ties"), tensors[0], tensors[1:], method)


def execute(plan: Plan, sink: Collected | None = None, **changes: Any) -> Collected:
    """Merges into a sink of its own, under another schedule."""
    sink = sink or Collected()
    Executor(plan.inputs, replace(plan.schedule, **changes), sink).run(chains_of(plan))
    return sink


def test_sliced_held_and_swept(ties: Plan) -> None:
    """A site with statistics merges the same when held in memory as when swept slice by slice."""
    held = execute(ties, resident_bytes=1 << 30, slice_elements=2 * GRAIN)
    swept = execute(ties, resident_bytes=0, slice_elements=GRAIN, threads=3)
    for name in (NAME, "b.weight"):
        assert held.whole(name) == swept.whole(name)
    assert len(swept.written[NAME]) == 5
    assert len(held.written[NAME]) == 3


def test_held_sites_are_read_once(ties: Plan) -> None:
    """Holding saves the second reading."""
    held, swept = execute(ties, resident_bytes=1 << 30), execute(ties, resident_bytes=0)
    assert held.read < 1.01 * 3 * 4 * 5 * GRAIN
    assert swept.read > 1.9 * held.read


@pytest.mark.parametrize("threads", [1, 3], ids=["walked", "swept"])
def test_sums_of_one_level_share_a_reading(threads: int, tmp_path: Path) -> None:
    """DARE's two sums of a tensor come of one reading, the merge of another; nothing else changes."""
    tensors = [{NAME: normal(*SIZE, seed=seed)} for seed in range(3)]
    plan = planned(tmp_path, tensors[0], tensors[1:], [{"dare": {"density": 0.4, "rescale": "l1"}}, "task_arithmetic"])
    held = execute(plan, resident_bytes=1 << 30, threads=threads)
    shared = execute(plan, resident_bytes=0, slice_elements=GRAIN, threads=threads)
    assert shared.whole(NAME) == held.whole(NAME)
    assert shared.read == 2 * held.read
    assert len(shared.results) == 2


@pytest.mark.parametrize("resident", [0, 1 << 30], ids=["swept", "held"])
def test_what_is_done_is_not_done_again(resident: int, ties: Plan) -> None:
    """Ranges that a journal has are neither merged nor written again; the rest fits to them."""
    whole = execute(ties).whole(NAME)
    sink = Collected(done={NAME: [(GRAIN, 3 * GRAIN)]})
    execute(ties, sink, resident_bytes=resident, slice_elements=GRAIN)
    ranges = sorted(sink.written[NAME])
    assert ranges[0] == (0, GRAIN)
    assert all(stop <= GRAIN or start >= 3 * GRAIN for start, stop in ranges)
    for (start, stop), data in sink.written[NAME].items():
        assert data == whole[4 * start : 4 * stop]
    nothing = execute(ties, Collected(done={NAME: [(0, 10 * GRAIN)], "b.weight": [(0, 7)]}))
    assert nothing.written == {}


def test_results_are_stored_and_used(ties: Plan) -> None:
    """A statistic of a swept site that is known is not computed again."""
    first = execute(ties, resident_bytes=0)
    assert len(first.results) == 2
    again = execute(ties, Collected(known=first.results), resident_bytes=0)
    assert again.results == {}
    assert again.whole(NAME) == first.whole(NAME)
    assert again.read < first.read


def test_a_result_of_before_is_believed(ties: Plan) -> None:
    """Another stored cut gives another result: the stored one is what is used."""
    first = execute(ties, resident_bytes=0)
    other = dict.fromkeys(first.results, (9.0, 9.0))
    assert execute(ties, Collected(known=other), resident_bytes=0).whole(NAME) != first.whole(NAME)


def test_rows_are_kept_whole(tmp_path: Path) -> None:
    """A method that sees rows gets whole rows, however small the slices."""
    tensors = [{NAME: normal(6, GRAIN // 2 + 1, seed=seed)} for seed in range(3)]
    plan = planned(tmp_path, tensors[0], tensors[1:], {"model_stock": {"rows": True}})
    sink = execute(plan, slice_elements=GRAIN)
    width = GRAIN // 2 + 1
    assert {start % width for start, _ in sink.written[NAME]} == {0}
    assert len(sink.written[NAME]) == 6
    assert sink.whole(NAME) == execute(plan, slice_elements=64 * GRAIN).whole(NAME)


@pytest.mark.parametrize(
    ("stop", "grid", "start", "expected"),
    [
        (10, 4, 0, [(0, 4), (4, 8), (8, 10)]),
        (10, 4, 5, [(5, 8), (8, 10)]),
        (8, 4, 8, [(8, 8)]),
        (0, 4, 0, [(0, 0)]),
        (4, 4, 0, [(0, 4)]),
    ],
)
def testpieces(stop: int, grid: int, start: int, expected: list[tuple[int, int]]) -> None:
    """Pieces end at multiples of the grid; an empty range is one empty piece."""
    assert list(pieces(stop, grid, start)) == expected


def test_stretches() -> None:
    """A sample is one stretch in so many; a small tensor is shown whole."""
    assert list(_stretches(5, 64)) == [(0, 5)]
    assert list(_stretches(0, 64)) == [(0, 0)]
    shown = list(_stretches(100 * STRETCH, 10))
    assert shown == [(start, start + STRETCH) for start in range(0, 100 * STRETCH, 10 * STRETCH)]


@dataclass(frozen=True)
class Largest(OfWeights):
    """The largest singular value of each model's delta, of one tensor or of all: it must see whole matrices."""

    @property
    def whole(self) -> bool:
        """Says so."""
        return True

    def scratch(self, n: int, shape: tuple[int, ...]) -> float:
        """A copy of everything."""
        return float(n * math.prod(shape))

    def init(self, parts: list[Part], n: int, double: bool) -> list[float]:
        """Nothing yet; the shapes are known beforehand."""
        assert all(len(part.shape) == 2 for part in parts)
        return [0.0] * n

    def update(self, state: list[float], seen: Seen) -> None:
        """Takes in one matrix."""
        assert (seen.start, seen.rows) == (0, None)
        assert seen.tensors.shape[1:] == seen.deltas.shape[1:]
        found = torch.linalg.matrix_norm(seen.deltas.double(), 2).tolist()
        state[:] = [max(pair) for pair in zip(state, found, strict=True)]

    def combine(self, left: list[float], right: list[float]) -> list[float]:
        """The larger of both."""
        return [max(pair) for pair in zip(left, right, strict=True)]

    def finish(self, state: list[float]) -> tuple[float, ...]:
        """The numbers."""
        return tuple(state)

    def nbytes(self, parts: list[Part], n: int) -> int:
        """A number a model."""
        return 8 * n


def _folds(*, scope: str) -> Mapping[str, Statistic]:
    return {"largest": Largest(Scope.MODEL if scope == "model" else Scope.TENSOR)}


def _fused(site: Site, *, scope: str) -> Combination:
    return Combination(tuple(1 / s for s in site.fold("largest")), "deltas", 1.0)


@combine(
    Paper("none", "A test", 2000),
    needs=Needs(base=True, locality=Locality.ELEMENT),
    laws=Laws(True, False, False, True, False),
    folds=_folds,
    fused=_fused,
)
def by_largest(site: Site, *, scope: Literal["tensor", "model"] = "tensor") -> torch.Tensor:
    """Divides each delta by the largest singular value."""
    return site.base + weighted_sum(1 / site.column(site.fold("largest")), site.deltas)


@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "torch"])
@pytest.mark.parametrize("resident", [0, 1 << 30], ids=["tight", "roomy"])
def test_statistics_that_see_whole_tensors(
    resident: int, fused: bool, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a statistic gets every tensor at once, in its shape, also before a map that goes in slices."""
    monkeypatch.setattr(eutectic.methods, "METHODS", {"by_largest": by_largest})
    base, *models = ({NAME: normal(3, GRAIN, seed=seed), "b": normal(5, 4, seed=9 + seed)} for seed in range(3))
    job = Job(
        [("by_largest", {"scope": scope})], models, base,
        fused=fused, threads=2, slice_elements=GRAIN, resident_bytes=resident,
    )  # fmt: skip
    merged = job.run()
    largest = {
        name: [torch.linalg.matrix_norm((model[name] - base[name]).double(), 2) for model in models] for name in base
    }
    for name, expected in base.items():
        for at, model in enumerate(models):
            norm = max(largest[each][at] for each in base) if scope == "model" else largest[name][at]
            expected = expected + (model[name] - base[name]) / norm
        assert torch.allclose(merged.tensor(name), expected, atol=1e-5)
