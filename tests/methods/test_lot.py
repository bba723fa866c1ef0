"""LOT by hand, against an independent minimisation, and where data does not decide."""

import pytest
import torch

from eutectic.methods import get
from eutectic.methods.site import Site
from eutectic.numerics.draw import Key
from eutectic.stats.store import Measured
from tests.make.sites import table

LOT = get("lot")


def solve(
    base: torch.Tensor,
    deltas: list[torch.Tensor],
    inputs: list[torch.Tensor],
    axis: int = 1,
    weight: list[float] | None = None,
    scale: float = 1.0,
    rcond: float = 0.0,
) -> torch.Tensor:
    """Merges maps over the rows that reach each."""
    grams = tuple(Measured.of((x.double().T @ x.double()).float(), len(x), axis) for x in inputs)
    site = Site("w", len(deltas), Key(0, "w"), {"gram": grams}, torch.stack(deltas), base, are_deltas=True)
    shares = site.column(weight or [1.0] * len(deltas))
    return LOT(site, scale=scale, rcond=rcond, weight=shares)


def test_by_hand() -> None:
    """Two input channels around (10 10): tasks moved by (1 2) and (3 4).

    Each shown one channel alone, T takes the first entry of one and the second of the other: (1 4). Shown 2 in the
    first channel, and 1 in each over two rows: the first entry is (4 * 1 + 1 * 3) / 5 = 7 / 5, the second 4, since
    rows are summed and not averaged.
    """
    base, deltas = table((10, 10)), [table((1, 2)), table((3, 4))]
    assert torch.allclose(solve(base, deltas, [table((1, 0)), table((0, 1))]), table((11, 14)))
    got = solve(base, deltas, [table((2, 0)), table((1, 0), (0, 1))])
    assert torch.allclose(got, table((11.4, 14)))
    got = solve(base, deltas, [table((2, 0)), table((1, 0), (0, 1))], scale=2.0)
    assert torch.allclose(got, table((12.8, 18)))
    # Weighed 1 and 4, the first entry is (4 * 1 + 4 * 3) / 8 = 2.
    got = solve(base, deltas, [table((2, 0)), table((1, 0), (0, 1))], weight=[1.0, 4.0])
    assert torch.allclose(got, table((12, 14)))


def test_apart_directions_add_up() -> None:
    """Tasks along (1 1) and (1 -1): T is each delta's part along its own direction, (1.5 1.5) + (-0.5 0.5)."""
    got = solve(table((0, 0)), [table((1, 2)), table((3, 4))], [table((1, 1)), table((1, -1))])
    assert torch.allclose(got, table((1, 2)), atol=1e-5)


def test_keeps_the_base_where_no_input_points() -> None:
    """One row (1 1 0): along it T gives the mean of the outputs 2 and 8; across it, and unused, nothing moves."""
    rows = [table((1, 1, 0)), table((1, 1, 0))]
    got = solve(table((5, 6, 7)), [table((1, 1, 0)), table((3, 5, 2))], rows)
    assert torch.allclose(got, table((7.5, 8.5, 7)), atol=1e-5)
    assert torch.equal(solve(table((5, 6)), [table((1, 2))], [table((0, 0))]), table((5, 6)))


def test_rcond_drops_weak_directions() -> None:
    """Eigenvalues 100 and 1: above a part of 0.1 only the first channel moves."""
    base, deltas, rows = table((0, 0)), [table((3, 4))], [table((10, 0), (0, 1))]
    assert torch.allclose(solve(base, deltas, rows, rcond=0.001), table((3, 4)))
    assert torch.allclose(solve(base, deltas, rows, rcond=0.1), table((3, 0)))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("rows", [(20, 31, 9), (2, 1, 2), (1, 1, 1), (2, 0, 1)])
def test_minimises_what_it_says(axis: int, rows: tuple[int, ...]) -> None:
    """Against the least-norm least squares over the stacked rows, determined and not: sum |X T^T - X T_k^T|^2."""
    generator = torch.Generator().manual_seed(0)
    deltas = [torch.randn(4, 7, generator=generator) for _ in rows]
    inputs = [torch.randn(each, 7, generator=generator) for each in rows]
    left = torch.cat(inputs).double()
    right = torch.cat([x.double() @ delta.double().T for x, delta in zip(inputs, deltas, strict=True)])
    expected = torch.linalg.lstsq(left, right, driver="gelsd").solution.T.float()
    shown = [delta.mT for delta in deltas] if axis == 0 else deltas
    got = solve(torch.zeros_like(shown[0]), shown, inputs, axis)
    assert torch.allclose(got.mT if axis == 0 else got, expected, atol=1e-4)


@pytest.mark.parametrize("rcond", [0.0, 1e-3, 0.2])
@pytest.mark.parametrize("weight", [None, [1.0, 0.5, 3.0]])
def test_few_rows_give_what_many_would(rcond: float, weight: list[float] | None) -> None:
    """The dual form, taken for 21 rows of 64 channels, against the same Gram matrices said to be of 64 rows each.

    Rows lie along common directions of very unequal size, and one is repeated.
    """
    generator = torch.Generator().manual_seed(1)
    sizes = torch.logspace(0, -2, 64)
    inputs = [torch.randn(each, 64, generator=generator) * sizes for each in (5, 9, 7)]
    inputs[0][1] = inputs[0][0]
    deltas = [torch.randn(10, 64, generator=generator) for _ in inputs]
    base = torch.randn(10, 64, generator=generator)
    few = solve(base, deltas, inputs, rcond=rcond, weight=weight)
    padded = [torch.cat([x, torch.zeros(64 - len(x), 64)]) for x in inputs]
    many = solve(base, deltas, padded, rcond=rcond, weight=weight)
    assert torch.allclose(few, many, atol=1e-4)
    assert not torch.allclose(few, base, atol=0.1)


def test_kernels_are_maps_of_their_patches() -> None:
    """A convolution of 2 x 3 places is solved as the matrix it is unfolded to."""
    generator = torch.Generator().manual_seed(2)
    inputs = [torch.randn(40, 18, generator=generator) for _ in range(2)]
    deltas = [torch.randn(5, 3, 2, 3, generator=generator) for _ in inputs]
    base = torch.randn(5, 3, 2, 3, generator=generator)
    got = solve(base, deltas, inputs)
    flat = solve(base.flatten(1), [delta.flatten(1) for delta in deltas], inputs)
    assert torch.equal(got, flat.reshape(base.shape))


def test_groups_of_channels_are_solved_apart() -> None:
    """Two groups of two channels each: every group from its own patches."""
    generator = torch.Generator().manual_seed(3)
    inputs = [torch.randn(2, 30, 6, generator=generator) for _ in range(2)]
    deltas = [torch.randn(4, 2, 3, generator=generator) for _ in inputs]
    base = torch.randn(4, 2, 3, generator=generator)
    grams = tuple(Measured.of(x.mT @ x, 30) for x in inputs)
    site = Site("w", 2, Key(0, "w"), {"gram": grams}, torch.stack(deltas), base, are_deltas=True)
    got = LOT(site, scale=1.0, rcond=0.0, weight=site.column([1.0, 1.0]))
    for group in range(2):
        part = slice(2 * group, 2 * group + 2)
        alone = solve(base[part].flatten(1), [d[part].flatten(1) for d in deltas], [x[group] for x in inputs])
        assert torch.allclose(got[part].flatten(1), alone, atol=1e-5)


def scales(squares: list[list[float]], deltas: list[list[float]], weight: list[float], name: str) -> torch.Tensor:
    """Merges scales (or shifts, by their name) around (10 10) with a scale of 2."""
    moments = tuple(Measured.of(torch.tensor([[0.0, 0.0], row]), 7, 0) for row in squares)
    site = Site(name, 2, Key(0, name), {"scales": moments}, torch.tensor(deltas), torch.full((2,), 10.0), True)
    found: torch.Tensor = LOT(site, scale=2.0, rcond=0.0, weight=site.column(weight))
    return found


def test_scales_by_hand() -> None:
    """Squares 3 and 1 in the first channel: T is (3 * 1 + 1 * 5) / 4 = 2, so 14; nothing fires in the second.

    Weighed 1 and 3 it is (3 * 1 + 3 * 5) / 6 = 3, so 16.
    """
    moved = [[1.0, 2.0], [5.0, 6.0]]
    assert scales([[3.0, 0.0], [1.0, 0.0]], moved, [1.0, 1.0], "norm.weight").tolist() == [14, 10]
    assert scales([[3.0, 0.0], [1.0, 0.0]], moved, [1.0, 3.0], "norm.weight").tolist() == [16, 10]


def test_shifts_by_hand() -> None:
    """Means of 1, 5 and 2, 6 are 3 and 4; weighed 1 and 3 they are 4 and 5."""
    moved = [[1.0, 2.0], [5.0, 6.0]]
    assert scales([[3.0, 0.0], [1.0, 0.0]], moved, [1.0, 1.0], "norm.bias").tolist() == [16, 18]
    assert scales([[3.0, 0.0], [1.0, 0.0]], moved, [1.0, 3.0], "norm.bias").tolist() == [18, 20]


def test_others_move_by_the_weighted_mean() -> None:
    """What is no linear map gets task arithmetic that divides by the sum of the weights."""
    other = LOT.elsewhere(3, scale=1.2)
    assert (other.method, dict(other.values)) == ("task_arithmetic", {"scale": 1.2, "normalize": True})
