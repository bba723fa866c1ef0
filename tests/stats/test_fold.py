import pytest
import torch

from eutectic.errors import UndeclaredNeed
from eutectic.numerics.draw import Key
from eutectic.numerics.stages import Drop, RankedDrop, Scale, Stage
from eutectic.stats.fold import Again, Of, Origin, Part, Scope, Seen, Statistic
from eutectic.stats.gradients import FisherDiagonal
from eutectic.stats.quantiles import MagnitudeBand, MagnitudeQuantile, SpreadQuantile
from eutectic.stats.weights import Energy, Gram, Mass, SignBalance

CUT = MagnitudeQuantile(Scope.TENSOR, (0.5,))


def test_scopes_are_ordered() -> None:
    """A model holds its tensors."""
    assert Scope.TENSOR < Scope.MODEL


@pytest.mark.parametrize(
    "statistic", [Gram(Scope.TENSOR), Energy(Scope.MODEL), Mass(Scope.TENSOR), CUT, SignBalance(Scope.MODEL)], ids=repr
)
def test_statistics_say_what_they_are(statistic: Statistic) -> None:
    """The planner derives the schedule from these alone."""
    assert (statistic.origin, statistic.of, statistic.after) == (Origin.WEIGHTS, Of.EACH, ())
    assert statistic.nbytes([Part("w", 10, (10,))], 2) > 0


def test_what_comes_first() -> None:
    """A mass above a cut, and a vote after a trim, wait for the cut."""
    assert Mass(Scope.TENSOR, cut=CUT).after == (CUT,)
    assert SignBalance(Scope.MODEL, (1.0,), CUT).after == (CUT,)
    assert Mass(Scope.TENSOR, kept=Drop((0.5,), (1.0,), 0)).after == ()
    assert Mass(Scope.TENSOR, band=MagnitudeBand(Scope.TENSOR)).after == (MagnitudeBand(Scope.TENSOR),)
    assert Energy(Scope.TENSOR, "deltas", SpreadQuantile(Scope.TENSOR)).after == (SpreadQuantile(Scope.TENSOR),)


def test_what_needs_whole_rows() -> None:
    """Ranks within rows do; nothing else so far."""
    assert Mass(Scope.TENSOR, kept=RankedDrop((0.5,), (0.1,), False, 0)).by_rows
    assert not Mass(Scope.TENSOR, kept=Drop((0.5,), (1.0,), 0)).by_rows
    assert not CUT.by_rows


def test_a_slice_is_computed_when_asked_for() -> None:
    """Tensors that a statistic does not look at are not made."""
    asked = []

    def deltas(stages: tuple[Stage, ...]) -> torch.Tensor:
        asked.append("deltas")
        return torch.ones(2, 4) * (len(stages) + 1)

    def tensors() -> torch.Tensor:
        asked.append("tensors")
        return torch.zeros(3, 4)

    seen = Seen(Part("w", 100, (100,)), 64, Key(1, "w", 0, 64), None, tensors, deltas, {CUT: (0.5,)})
    assert asked == []
    assert seen.deltas.sum() == 8
    assert asked == ["deltas"]
    assert seen.after((Scale((2.0, 2.0)),)).sum() == 16
    asked.pop()
    assert (seen.name, seen.numel, seen.start, seen.results[CUT]) == ("w", 100, 64, (0.5,))
    Energy(Scope.TENSOR).update(Energy(Scope.TENSOR).init([Part("w", 100, (100,))], 2, False), seen)
    assert asked == ["deltas", "deltas"]
    with pytest.raises(UndeclaredNeed, match=r"FisherDiagonal.*not declared in calibrated"):
        seen.measured(FisherDiagonal())


def test_only_some_need_another_look() -> None:
    """A sum is finished at once; a quantile of many elements narrows its window first."""
    parts = [Part("w", 1 << 20, (1 << 20,))]
    assert not isinstance(Energy(Scope.TENSOR).finish(Energy(Scope.TENSOR).init(parts, 2, False)), Again)
    state = CUT.init(parts, 2, False)
    state.bins[:, 1000] = 500
    again = CUT.finish(state)
    assert isinstance(again, Again)
    assert CUT.sample(again.state) == 1
    assert CUT.sample(state) > 1


SHAPES: tuple[tuple[int, ...], ...] = ((6, 4), (2, 3, 4), (5,), (), (0,), (3, 0))


def test_rows_of_a_part() -> None:
    """Rows run along the last axis; a vector or a number is one row; of an empty tensor there are none."""
    found = {shape: (part.width, part.rows) for shape in SHAPES if (part := Part.of("w", shape))}
    assert found == {(6, 4): (4, 6), (2, 3, 4): (4, 6), (5,): (5, 1), (): (1, 1), (0,): (1, 0), (3, 0): (1, 0)}
