import torch

from eutectic.methods.extras import Outputs
from eutectic.methods.tsv_c import kept, tsv_c
from tests.make.sites import Job, merge, table

BASE = table([1, 1], [1, 1], [1, 1])
A = table([3, 0], [0, 1], [0, 0])
B = table([0, 0], [0, 0], [0, 2])


def extras(base: torch.Tensor, *deltas: torch.Tensor) -> Outputs:
    """Returns the merged delta around the base, and what is kept for each task."""
    sink = Job([("tsv_c", {})], [base + delta for delta in deltas], base).run()
    return Outputs(sink.tensor("w") - base, sink.extras("w"))


def test_by_hand() -> None:
    """Rank 2 and two tasks leave one triplet each: A keeps 3 of 3 and 1, B its 2; the mean is merged."""
    made = extras(BASE, A, B)
    assert torch.allclose(made.merged, table([1.5, 0], [0, 0], [0, 1]), atol=1e-6)
    assert {name: tuple(each.shape) for name, each in made.extras.items()} == {
        "left": (2, 3, 1),
        "values": (2, 1),
        "right": (2, 1, 2),
    }
    assert torch.allclose(made.extras["values"], table([3], [2]))
    assert tsv_c.specialise is not None
    for at, expected in enumerate((table([3, 0], [0, 0], [0, 0]), B)):
        own = {name: each[at] for name, each in made.extras.items()}
        assert torch.allclose(tsv_c.specialise(BASE, BASE + made.merged, own), BASE + expected, atol=1e-6)


def test_other_shapes_are_kept_whole() -> None:
    """A vector and a kernel of three axes: each task's delta as it is."""
    for shape in ((4,), (2, 1, 3)):
        base, first, second = torch.ones(shape), torch.full(shape, 2.0), torch.full(shape, -1.0)
        made = extras(base, first, second)
        assert made.merged.unique().tolist() == [0.5]
        assert set(made.extras) == {"delta"}
        assert [each.unique().tolist() for each in made.extras["delta"]] == [[2.0], [-1.0]]


def test_more_tasks_than_directions() -> None:
    """Three tasks and rank 2 leave none: the matrix stays at the base. The share is a product in floats, cut off."""
    assert [kept((9, 49), n) for n in (1, 2, 3, 49)] == [9, 4, 3, 0]
    assert kept((98, 49), 49) == int(49 * (1 / 49)) == 0  # 0.9999999999999999
    made = extras(BASE, A, B, A + B)
    assert not made.merged.any()
    assert made.extras["left"].shape == (3, 3, 0)


def test_not_finite_is_seen() -> None:
    """A NaN anywhere in a matrix is seen in it, and raises nothing."""
    broken = BASE.clone()
    broken[0, 1] = float("nan")
    assert merge(("tsv_c", {}), [broken, BASE + B], BASE).isnan().all()
