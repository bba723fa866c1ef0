"""RegMean by hand, against an independent minimisation, and where data does not decide."""

import pytest
import torch

from eutectic.methods import get
from eutectic.methods.site import Site
from eutectic.numerics.draw import Key
from eutectic.stats.store import Measured
from tests.make.sites import table

REGMEAN = get("regmean")


def solve(
    tensors: list[torch.Tensor],
    inputs: list[torch.Tensor],
    axis: int = 1,
    weight: list[float] | None = None,
    **values: float,
) -> torch.Tensor:
    """Merges maps over the rows that reach each."""
    grams = tuple(Measured.of((x.double().T @ x.double()).float(), len(x), axis) for x in inputs)
    site = Site("w", len(tensors), Key(0, "w"), {"gram": grams}, torch.stack(tensors))
    shares = site.column(weight or [1.0] * len(tensors))
    return REGMEAN(site, weight=shares, **values)


def test_by_hand() -> None:
    """Two inputs channels, each model shown one of them alone, once.

    G_1 = diag(1, 0), G_2 = diag(0, 1): the sum is the identity, so W = W_1 diag(1, 0) + W_2 diag(0, 1): the first
    column of (1 2) and the second of (3 4), that is (1 4). Shown 2 in the first channel and 1 over two rows:
    G_1 = diag(4, 0) / 1, G_2 = diag(1, 0) / 2 + ..., the first column is (4 * 1 + 0.5 * 3) / 4.5 = 11 / 9.
    """
    first, second = table((1, 2)), table((3, 4))
    got = solve([first, second], [table((1, 0)), table((0, 1))], alpha=1.0)
    assert torch.allclose(got, table((1, 4)))
    got = solve([first, second], [table((2, 0)), table((1, 0), (0, 1))], alpha=1.0)
    assert torch.allclose(got, table((11 / 9, 4)))


def test_alpha_shrinks_what_is_off_the_diagonal() -> None:
    """One output: G_1 = (1 1; 1 1), G_2 = (1 -1; -1 1). Alpha 0 leaves the diagonals, equal: the average (2 3)."""
    tensors = [table((1, 2)), table((3, 4))]
    inputs = [table((1, 1)), table((1, -1))]
    assert torch.allclose(solve(tensors, inputs, alpha=0.0), table((2, 3)))
    # Alpha 1: the sum is 2 I and the right side G_1 w_1 + G_2 w_2 = (3, 3) + (-1, 1) = (2, 4): half of it is (1, 2).
    assert torch.allclose(solve(tensors, inputs, alpha=1.0), table((1, 2)), atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_minimises_what_it_says(axis: int) -> None:
    """Against least squares over the stacked rows, which no Gram matrix is made for: sum |X W^T - X W_k^T|^2 / rows."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(4, 7, generator=generator) for _ in range(3)]
    inputs = [torch.randn(rows, 7, generator=generator) for rows in (20, 31, 9)]
    left = torch.cat([x.double() / len(x) ** 0.5 for x in inputs])
    right = torch.cat([x.double() @ w.double().T / len(x) ** 0.5 for x, w in zip(inputs, tensors, strict=True)])
    expected = torch.linalg.lstsq(left, right).solution.T.float()
    shown = [w.mT for w in tensors] if axis == 0 else tensors
    got = solve(shown, inputs, axis, alpha=1.0)
    assert torch.allclose(got.mT if axis == 0 else got, expected, atol=1e-5)


def test_weights_count_data() -> None:
    """A model whose data weighs nothing has no say, unless nobody else's data reaches a channel."""
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(3, 5, generator=generator) for _ in range(2)]
    inputs = [torch.randn(30, 5, generator=generator) for _ in range(2)]
    assert torch.allclose(solve(tensors, inputs, weight=[1.0, 0.0], alpha=1.0), tensors[0], atol=1e-5)


def test_where_data_decides_nothing_it_is_the_mean() -> None:
    """One sample of rank 1: along it the least squares answer, across it the mean; a channel never used is the mean."""
    tensors = [table((1, 1, 0)), table((3, 5, 2))]
    inputs = [table((1, 1, 0)), table((1, 1, 0))]
    # Along (1, 1): outputs 2 and 8, their mean 5 on an input of squared length 2. The mean map (2 3) gives 5 as well.
    assert torch.allclose(solve(tensors, inputs, alpha=1.0), table((2, 3, 1)), atol=1e-5)
    lone = solve(tensors, [table((1, 1, 0)), table((1, -1, 0))], alpha=1.0)
    # (1, 1) must give 2 and (1, -1) must give -2: w = (0, 2); the third channel is the mean of 0 and 2.
    assert torch.allclose(lone, table((0, 2, 1)), atol=1e-5)


def test_reads_the_merged_prefix_when_asked() -> None:
    """`prefix: merged` asks for other results."""
    own, merged = (REGMEAN.calibrated(alpha=0.9, weight=(1.0,), prefix=prefix)["gram"] for prefix in ("own", "merged"))
    assert own != merged
    assert "merged" in repr(merged)
