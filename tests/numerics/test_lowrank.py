import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eutectic.numerics.lowrank import add_squares, lowrank_into


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Returns float32 normal draws."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def dense(b: np.ndarray, a: np.ndarray, scale: float) -> np.ndarray:
    """Returns the whole product, flattened."""
    out = np.empty(b.shape[0] * a.shape[1], np.float32)
    lowrank_into(b, a, scale, 0, out)
    return out


def test_hand_computed() -> None:
    """Rows of B by columns of A, times the scale."""
    b = np.array([[1, 2], [3, 4], [0, -1]], np.float32)
    a = np.array([[1, 0], [5, 7]], np.float32)
    assert dense(b, a, 0.5).tolist() == [5.5, 7.0, 11.5, 14.0, -2.5, -3.5]


@pytest.mark.parametrize("rank", [1, 3, 4, 7, 16])
def test_against_float64(rank: int) -> None:
    """Sums are those of float64, to float32 rounding, over several column blocks."""
    b, a = normal(5, rank, seed=1), normal(rank, 1300, seed=2)
    exact = 0.25 * (b.astype(np.float64) @ a.astype(np.float64))
    scale = 0.25 * (np.abs(b).astype(np.float64) @ np.abs(a).astype(np.float64))
    assert np.all(np.abs(dense(b, a, 0.25).reshape(5, 1300) - exact) <= rank * 2.0**-24 * scale + 1e-30)


def test_order_is_one_rank_after_the_other() -> None:
    """The sum runs over the rank in rising order, rounding after every product and every addition."""
    b, a = normal(3, 11, seed=3), normal(11, 40, seed=4)
    slow = np.zeros((3, 40), np.float32)
    for k in range(11):
        slow = slow + b[:, k : k + 1] * a[k]
    assert np.array_equal(dense(b, a, 0.3).reshape(3, 40), slow * np.float32(0.3))


@given(
    st.integers(1, 9), st.integers(1, 6), st.sampled_from([1, 7, 64, 513, 1025]), st.lists(st.floats(0, 1), max_size=4)
)
def test_bits_do_not_depend_on_the_range(rank: int, rows: int, columns: int, cuts: list[float]) -> None:
    """Any cut into ranges gives the bits of the whole."""
    b, a = normal(rows, rank, seed=5), normal(rank, columns, seed=6)
    whole = dense(b, a, 1.7)
    edges = sorted({0, whole.size, *(int(cut * whole.size) for cut in cuts)})
    for start, stop in itertools.pairwise(edges):
        part = np.empty(stop - start, np.float32)
        lowrank_into(b, a, 1.7, start, part)
        assert part.tobytes() == whole[start:stop].tobytes()


def test_transposed_factors_give_the_transposed_bits() -> None:
    """`lowrank_into(a.T, b.T)` is the transposed product, bit for bit."""
    b, a = normal(37, 6, seed=7), normal(6, 600, seed=8)
    turned = dense(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), 0.1).reshape(600, 37)
    assert np.ascontiguousarray(turned.T).tobytes() == dense(b, a, 0.1).tobytes()


def test_empty_range() -> None:
    """No elements are no work, at the matrix's end too."""
    out = np.empty(0, np.float32)
    lowrank_into(normal(2, 2), normal(2, 3), 1.0, 6, out)
    assert out.size == 0


@pytest.mark.parametrize(
    ("b", "a", "start", "count"), [((2, 3), (2, 3), 0, 1), ((2, 2), (2, 3), 5, 2), ((2, 2), (2, 3), -1, 2)]
)
def test_wrong_arguments(b: tuple[int, int], a: tuple[int, int], start: int, count: int) -> None:
    """Factors that do not fit and ranges outside the matrix never reach the loop."""
    with pytest.raises(ValueError, match=r"fit|leave"):
        lowrank_into(normal(*b), normal(*a), 1.0, start, np.empty(count, np.float32))


@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("cut", [0, 1, 10, 23, 35])
def test_squares_by_row_and_column(by_column: bool, cut: int) -> None:
    """Sums of squares are numpy's, and two ranges give the bits of one."""
    values = normal(5, 7, seed=9)
    once, twice = np.zeros(7 if by_column else 5), np.zeros(7 if by_column else 5)
    add_squares(values.reshape(-1), 0, 7, by_column, once)
    add_squares(values.reshape(-1)[:cut], 0, 7, by_column, twice)
    add_squares(values.reshape(-1)[cut:], cut, 7, by_column, twice)
    np.testing.assert_allclose(once, np.sum(values.astype(np.float64) ** 2, axis=0 if by_column else 1), rtol=1e-14)
    assert once.tobytes() == twice.tobytes()
