"""Blocks along a diagonal: by hand, against a whole product, and ranges."""

import numpy as np
import pytest

from eutectic.numerics.turned import inverse_beside_one, products, turned_into


def test_by_hand() -> None:
    """(1 2 3 4) times the blocks (0 1; 1 0) and (2 0; 0 3): (2 1 6 12)."""
    blocks = np.array([[[0, 1], [1, 0]], [[2, 0], [0, 3]]], np.float64)
    out = np.empty(4, np.float32)
    turned_into(np.array([[1, 2, 3, 4]], np.float32), blocks, 0, out)
    assert out.tolist() == [2, 1, 6, 12]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_against_the_whole_product(
    shared: bool,
    dtype: type,
) -> None:
    """Any range has the elements of rows @ block_diag, with the same bits."""
    draw = np.random.default_rng(0)
    rows, blocks = draw.standard_normal((5, 12)).astype(dtype), draw.standard_normal((1 if shared else 4, 3, 3))
    whole = np.zeros((12, 12))
    for at in range(4):
        whole[3 * at : 3 * at + 3, 3 * at : 3 * at + 3] = blocks[0 if shared else at]
    out = np.empty(60, dtype)
    turned_into(rows, blocks, 0, out)
    np.testing.assert_allclose(out.reshape(5, 12), rows.astype(float) @ whole, rtol=1e-6)
    for first, stop in ((0, 1), (2, 4), (7, 41), (59, 60)):
        part = np.empty(stop - first, dtype)
        turned_into(rows, blocks, first, part)
        assert np.array_equal(part, out[first:stop])


def test_inverse_by_hand() -> None:
    """I + Q of (0 2; -2 0) is (1 2; -2 1), whose inverse is (1 -2; 2 1) / 5."""
    found = inverse_beside_one(np.array([[[0.0, 2.0], [-2.0, 0.0]]]))
    np.testing.assert_allclose(found, [[[0.2, -0.4], [0.4, 0.2]]], rtol=1e-15)


@pytest.mark.parametrize(("size", "scale"), [(1, 1.0), (7, 0.1), (7, 100.0), (150, 1.0)])
def test_inverse_against_its_definition(size: int, scale: float) -> None:
    """(I + Q) times it is I, however far it turns; the input stays."""
    made = scale * np.random.default_rng(0).standard_normal((2, size, size))
    made -= made.transpose(0, 2, 1)
    before = made.copy()
    found = inverse_beside_one(made)
    np.testing.assert_allclose((np.eye(size) + made) @ found, np.broadcast_to(np.eye(size), made.shape), atol=1e-11)
    assert np.array_equal(made, before)


@pytest.mark.parametrize("size", [1, 5, 128, 150])
def test_products_against_numpy(size: int) -> None:
    """Also of sizes that are no multiple of what is held at once."""
    left, right = np.random.default_rng(0).standard_normal((2, 3, size, size))
    np.testing.assert_allclose(products(left, right), left @ right, rtol=1e-12, atol=1e-12)


def test_what_does_not_fit() -> None:
    """Blocks of another width, of another number, and ranges beyond the end."""
    rows, out = np.ones((2, 6), np.float32), np.empty(3, np.float32)
    for shape in ((2, 2, 2), (1, 4, 4), (3, 2, 3)):
        with pytest.raises(ValueError, match="do not fit"):
            turned_into(rows, np.ones(shape), 0, out)
    with pytest.raises(ValueError, match="leave rows"):
        turned_into(rows, np.ones((3, 2, 2)), 10, out)
