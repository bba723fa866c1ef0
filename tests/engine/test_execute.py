"""Three ways to visit a site, one result; what is done is not done again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eutectic.engine.execute import STRETCH, Executor, _stretches, pieces
from eutectic.engine.run import chains_of
from eutectic.numerics.kernels import GRAIN
from eutectic.plan.steps import Plan
from tests.engine.sites import Collected, normal, planned

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
