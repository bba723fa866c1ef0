"""Blocks along a diagonal: by hand, against a whole product, and ranges."""

import numpy as np
import pytest

from eutectic.numerics.turned import turned_into


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


def test_what_does_not_fit() -> None:
    """Blocks of another width, of another number, and ranges beyond the end."""
    rows, out = np.ones((2, 6), np.float32), np.empty(3, np.float32)
    for shape in ((2, 2, 2), (1, 4, 4), (3, 2, 3)):
        with pytest.raises(ValueError, match="do not fit"):
            turned_into(rows, np.ones(shape), 0, out)
    with pytest.raises(ValueError, match="leave rows"):
        turned_into(rows, np.ones((3, 2, 2)), 10, out)
