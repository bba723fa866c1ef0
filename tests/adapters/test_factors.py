import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eutectic.adapters.factors import (
    Factors,
    Spectrum,
    add,
    compress,
    gram,
    inner,
    norm,
    overlay,
    spectrum,
    total,
    truncate,
)
from tests.make.factors import mixed, updates


def decaying(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Returns a float32 matrix whose singular values fall as 1 / (1 + i)."""
    source = torch.Generator().manual_seed(seed)
    least = min(rows, columns)
    u, v = (torch.linalg.qr(torch.randn(side, least, generator=source))[0] for side in (rows, columns))
    return (u / torch.arange(1, least + 1)) @ v.T


def test_a_sum_by_hand() -> None:
    """2 (1,0)(1,1) - 1 (0,1)(1,-1) = [[2,2],[-1,1]]: ranks add up, scales are folded in."""
    first = Factors(torch.tensor([[1.0], [0.0]]), torch.tensor([[1.0, 1.0]]), 0.5)
    second = Factors(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0, -1.0]]))
    found = add([first, second], [4.0, -1.0])
    assert (found.rank, found.scale, found.shape) == (2, 1.0, (2, 2))
    assert found.dense().tolist() == [[2.0, 2.0], [-1.0, 1.0]]
    assert first.scaled(3).scale == 1.5
    assert torch.equal(first.folded().dense(), first.dense())


def test_an_overlay_by_hand() -> None:
    """(1,2) and (3,4) above each other, and (5,6) on the first: (6,8), (3,4)."""
    parts = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0]])]
    assert overlay(parts).tolist() == [[6.0, 8.0], [3.0, 4.0]]
    assert parts[0].tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_factors_that_do_not_fit_are_refused() -> None:
    """Inner sides differ, sums are of different shapes, or there is nothing to add."""
    with pytest.raises(ValueError, match="do not fit"):
        Factors(torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="one shape"):
        add([*updates(1), *updates(1, (8, 9))])
    with pytest.raises(ValueError, match="one shape"):
        add([])


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_the_algebra_is_that_of_dense_matrices(n: int, rank: int, rows: int, columns: int, seed: int) -> None:
    """Sums, inner products, norms and spectra of factors are those of the products, whatever the factors."""
    parts = updates(n, (rows, columns), (rank, 1), seed)
    dense = [part.dense() for part in parts]
    weights = [(-1.0) ** at * (at + 0.5) for at in range(n)]
    expected = sum(weight * each for weight, each in zip(weights, dense, strict=True))
    assert isinstance(expected, torch.Tensor)
    others = [mixed(part, seed) for part in parts]
    for some in (list(parts), others):
        found = add(some, weights)
        size = 1 + float(expected.abs().max())
        assert torch.allclose(found.dense(), expected, atol=1e-8 * size)
        assert math.isclose(norm(found), float(expected.norm()), rel_tol=1e-6, abs_tol=1e-6 * size)
        assert torch.allclose(gram(some), torch.tensor([[float((x * y).sum()) for x in dense] for y in dense]).double())
        assert math.isclose(inner(some[0], some[-1]), float((dense[0] * dense[-1]).sum()), abs_tol=1e-6 * size**2)
        seen = spectrum(found)
        assert torch.allclose(seen.s, torch.linalg.svdvals(expected)[: len(seen.s)], atol=1e-8 * size)
        assert torch.allclose((seen.u * seen.s) @ seen.vt, expected, atol=1e-8 * size)


@pytest.mark.parametrize("rank", [1, 2, 5, 9])
def test_truncation_is_the_best_and_says_its_error(rank: int) -> None:
    """What is kept is the truncated SVD of the sum; the stated error is the distance."""
    whole = add(updates(3, (12, 10), (3,)))
    cut = truncate(whole, rank)
    u, s, vt = torch.linalg.svd(whole.dense())
    best = (u[:, :rank] * s[:rank]) @ vt[:rank]
    assert torch.allclose(cut.factors.dense(), best, atol=1e-9)
    assert math.isclose(cut.error, float((cut.factors.dense() - whole.dense()).norm()), abs_tol=1e-9)
    assert math.isclose(cut.norm, norm(whole), rel_tol=1e-9)
    assert cut.relative == cut.error / cut.norm


def test_an_error_chooses_the_least_rank() -> None:
    """Singular values 4, 2, 1: the norm is root 21; dropping 1 loses 0.218, dropping 2 and 1 loses 0.488."""
    values = torch.tensor([4.0, 2.0, 1.0]).double()
    update = Factors(torch.eye(3).double() * values, torch.eye(3).double())
    assert [truncate(update, error=e).factors.rank for e in (0.1, 0.22, 0.48, 0.49, 0.9)] == [3, 2, 2, 1, 1]
    assert truncate(update, rank=1, error=0.1).factors.rank == 1


def test_zero_is_cut_to_one_rank_without_loss() -> None:
    """An update of zero has no directions and loses nothing."""
    nothing = Factors(torch.zeros(4, 2), torch.randn(2, 3))
    for cut in (truncate(nothing, error=0.1), truncate(nothing, 1), compress(torch.zeros(4, 3), 1)):
        assert cut.factors.rank == 1
        assert (cut.error, cut.relative) == (0.0, 0.0)
        assert bool(torch.isfinite(cut.factors.dense()).all())


@pytest.mark.parametrize("shape", [(40, 60), (700, 530), (530, 700)])
def test_dense_matrices_are_compressed_with_a_measured_error(shape: tuple[int, int]) -> None:
    """Small and large matrices: within a thousandth of the least error there is, which is stated as it is."""
    matrix = decaying(*shape)
    values = torch.linalg.svdvals(matrix.double())
    for rank in (1, 8, 20):
        cut = compress(matrix, rank)
        true = float((cut.factors.dense().double() - matrix.double()).norm())
        assert math.isclose(cut.error, true, rel_tol=1e-4)
        assert cut.error <= float(values[rank:].norm()) * 1.001


def test_dense_matrices_are_compressed_to_an_error() -> None:
    """The rank is found that keeps the error, and hardly more than the least such rank."""
    matrix = decaying(700, 530)
    values = torch.linalg.svdvals(matrix.double())
    for error in (0.5, 0.2, 0.05):
        cut = compress(matrix, error=error)
        least = next(r for r in range(1, 531) if float(values[r:].norm()) <= error * float(values.norm()))
        assert cut.relative <= error
        assert least <= cut.factors.rank <= least + 1 + least // 50


def test_any_number_is_summed_in_bounded_memory() -> None:
    """Beyond a sum of ranks the sum is dense; both forms are the weighted sum."""
    parts = updates(90, (20, 30), (4,), double=False)
    weights = [0.5 - (at % 3) for at in range(90)]
    expected = sum(w * part.dense().double() for w, part in zip(weights, parts, strict=True))
    assert isinstance(expected, torch.Tensor)
    for most in (0, 100, 1000):
        found = total(zip(parts, weights, strict=True), (20, 30), most)
        assert isinstance(found, Factors) == (most == 1000)
        dense = found.dense() if isinstance(found, Factors) else found
        assert float((dense.double() - expected).norm() / expected.norm()) < 1e-6
    nothing = total([], (20, 30), 5)
    assert isinstance(nothing, Factors)
    assert float(nothing.dense().abs().max()) == 0


def test_spectrum_knows_what_is_left() -> None:
    """Norms and tails count what the decomposition left out: 3, 4 and 12 make 13."""
    seen = Spectrum(torch.eye(2).double(), torch.tensor([12.0, 4.0]).double(), torch.eye(2).double(), 3.0)
    assert seen.norm == 13.0
    assert (seen.tail(1), seen.tail(2)) == (5.0, 3.0)
    assert seen.rank_for(0.3) == 2
