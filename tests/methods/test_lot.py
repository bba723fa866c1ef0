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
@pytest.mark.parametrize("rows", [(20, 31, 9), (2, 1, 2)])
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


def test_others_move_by_the_weighted_mean() -> None:
    """What is no linear map gets task arithmetic that divides by the sum of the weights."""
    other = LOT.elsewhere(3, scale=1.2)
    assert (other.method, dict(other.values)) == ("task_arithmetic", {"scale": 1.2, "normalize": True})
