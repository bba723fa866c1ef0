import torch

from eutectic.numerics.draw import Key
from eutectic.stats.conflict import ConflictQuantile, conflict
from eutectic.stats.fold import Again, Part, Scope, Seen

DELTAS = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))


def test_by_hand() -> None:
    """Pairs of 1, -2 and 2 give 2 (2 + 2 + 4) = 16, its root is 4; a task alone, or where others are 0, gives 0."""
    deltas = torch.tensor([[1.0, 0.1], [-2.0, 0.0], [2.0, 0.0]])
    assert conflict(deltas, deltas).tolist() == [4.0, 0.0]
    assert conflict(torch.tensor([[0.1]]), torch.tensor([[0.1]])).tolist() == [0.0]


def test_two_sides_by_hand() -> None:
    """Sensitivities 1, 3 and movements -2, 4: 1 * 4 + 3 * 2 = 10; who alone minds and moves conflicts with nobody."""
    sensitivity, movement = torch.tensor([[1.0, 3.0], [3.0, 0.0]]), torch.tensor([[-2.0, 5.0], [4.0, 0.0]])
    assert torch.allclose(conflict(sensitivity, movement), torch.tensor([10.0**0.5, 0.0]))


def test_the_quantile_is_the_sorted_one() -> None:
    """Against a sort, whatever the slices."""
    for share in (0.01, 0.3, 1.0):
        statistic = ConflictQuantile(Scope.MODEL, share)
        part = Part.of("w", (5000,))
        state = statistic.init([part], 3, False)
        while True:
            for piece, start in zip(DELTAS.split(1024, 1), range(0, 5000, 1024), strict=True):
                seen = Seen(part, start, Key(0, "w"), None, lambda p=piece: p, lambda _, p=piece: p, {})
                statistic.update(state, seen)
            found = statistic.finish(state)
            if not isinstance(found, Again):
                break
            state = found.state
        expected = conflict(DELTAS, DELTAS).sort().values[min(int(5000 * round(1 - share, 15)), 4999)]
        assert found == float(expected)
