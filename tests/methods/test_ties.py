import pytest
import torch

from tests.make.sites import Job, merge, table

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
BASE = table([10, 10, 10], [10, 10, 10])
A = table([6, -5, 4], [3, -2, 1])
B = table([-1, -2, -3], [4, 5, 6])
C = table([2, 2, 2], [5, 2, -9])


def ties(fused: bool, deltas: list[torch.Tensor] | None = None, **values: object) -> list[list[float]]:
    """Returns the merged delta of A, B and C around the base."""
    models = [BASE + delta for delta in deltas or [A, B, C]]
    merged: list[list[float]] = (merge(("ties", values), models, BASE, fused=fused) - BASE).tolist()
    return merged


@FUSED
def test_by_hand(fused: bool) -> None:
    """Density 0.5 of six: the authors' rank is 6 - 3 = 3, so magnitudes from the third smallest on are kept.

    Cuts are 3, 3 and 2: A keeps 6, -5, 4, 3; B keeps -3, 4, 5, 6; C keeps all. Votes, and the mean of who agrees:
    6 + 2 -> 4;  -5 + 2 -> -5;  4 - 3 + 2 -> 3;  3 + 4 + 5 -> 4;  5 + 2 -> 3.5;  6 - 9 -> -9.
    """
    assert ties(fused, density=0.5) == [[4, -5, 3], [4, 3.5, -9]]


@FUSED
def test_counts(fused: bool) -> None:
    """An exact count keeps three of six: A loses its 3 and B its -3, so that the fourth mean is (4 + 5) / 2."""
    assert ties(fused, density=0.5, count="exact") == [[4, -5, 3], [4.5, 3.5, -9]]
    assert ties(fused, density=0.5, count="mask_rate") == [[4, -5, 3], [4, 3.5, -9]]  # int(6 * 0.5) = 3


@FUSED
def test_averages(fused: bool) -> None:
    """The sum of those who agree, or the largest of them."""
    assert ties(fused, density=0.5, average="sum") == [[8, -5, 6], [12, 7, -9]]
    assert ties(fused, density=0.5, average="max") == [[6, -5, 4], [5, 5, -9]]


@FUSED
def test_weights_and_ties(fused: bool) -> None:
    """Weights 1, 2, 1 enter votes and sums; 4 - 6 + 2 is an exact tie, and (4 + 2) / 2 = 3 if plus takes it.

    Others: (6 + 2) / 2;  -5;  (3 + 8 + 5) / 4;  (10 + 2) / 3;  12 / 2, for 12 - 9 elects plus now.
    """
    values = {"density": 0.5, "weight": (1.0, 2.0, 1.0), "average": "weight"}
    assert ties(fused, **values) == [[4, -5, 0], [4, 4, 6]]
    assert ties(fused, **values, tie="plus") == [[4, -5, 3], [4, 4, 6]]
    assert ties(fused, **values, tie="majority") == [[4, -5, 3], [4, 4, 6]]  # four elect plus, one minus
    # All signs turned, the majority is minus and takes the tie; plus would give 6 / 2 of the second model.
    assert ties(fused, [-A, -B, -C], **values, tie="majority") == [[-4, 5, -3], [-4, -4, -6]]
    assert ties(fused, [-A, -B, -C], **values, tie="plus")[0][2] == 3


@FUSED
def test_negative_weight_turns_the_vote(fused: bool) -> None:
    """Weight -1 makes B vote against itself: first element 6 + 1 + 2 elects plus, and all three agree."""
    assert ties(fused, density=1.0, weight=(1.0, -1.0, 1.0))[0] == [3, -5, 3]


@FUSED
def test_scale(fused: bool) -> None:
    """Lambda multiplies the merged delta."""
    assert ties(fused, density=0.5, scale=0.5) == [[2, -2.5, 1.5], [2, 1.75, -4.5]]


@FUSED
def test_density_at_its_ends(fused: bool) -> None:
    """Density 0 leaves the base; density 1 trims nothing (the authors' code crashes there); each model has its own."""
    assert ties(fused, density=0.0) == [[0, 0, 0], [0, 0, 0]]
    assert ties(fused, density=1.0, average="sum")[0] == [8, -7, 6]
    assert ties(fused, density=(1.0, 0.0, 0.0)) == A.tolist()


@FUSED
@pytest.mark.parametrize(
    ("scope", "first", "second"),
    [("model", [4, 5, 6], [0, 0, 3]), ("tensor", [0, 5, 6], [0, 2, 3])],
)
def test_scope(fused: bool, scope: str, first: list[float], second: list[float]) -> None:
    """Of six deltas together the cut is 3; of three each, the second smallest: 5 and 2."""
    model = {"a": torch.tensor([4.0, 5.0, 6.0]), "b": torch.tensor([1.0, 2.0, 3.0])}
    base = {name: torch.zeros(3) for name in model}
    merged = Job([("ties", {"density": 0.5, "scope": scope})], [model], base, fused=fused).run()
    assert merged.tensor("a").tolist() == first
    assert merged.tensor("b").tolist() == second


@FUSED
def test_equal_magnitudes_at_the_cut_are_all_kept(fused: bool) -> None:
    """No order among equals is invented."""
    model = torch.tensor([1.0, -1.0, 1.0, -1.0])
    merged = merge(("ties", {"density": 0.25, "count": "exact"}), [model], torch.zeros(4), fused=fused)
    assert merged.tolist() == model.tolist()


@FUSED
def test_nan_is_not_hidden(fused: bool) -> None:
    """A NaN in one model is a NaN in the result, there and nowhere else."""
    broken = A.clone()
    broken[0, 1] = float("nan")
    merged = merge(("ties", {"density": 0.5, "scope": "tensor"}), [BASE + broken, BASE + B], BASE, fused=fused)
    assert merged.isnan().tolist() == [[False, True, False], [False, False, False]]
