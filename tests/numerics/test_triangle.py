import numpy as np
import pytest

from eutectic.numerics.triangle import pack, unpack


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (3, 4, 4), (0, 0)])
def test_packed_and_back(shape: tuple[int, ...]) -> None:
    """Half the numbers hold all of a symmetric matrix, to the last bit."""
    drawn = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    square = drawn + drawn.swapaxes(-1, -2)
    packed = pack(square)
    assert packed.shape == (*shape[:-2], shape[-1] * (shape[-1] + 1) // 2)
    assert np.array_equal(unpack(packed, shape[-1]), square)


def test_order() -> None:
    """Row by row from the diagonal on."""
    assert pack(np.array([[1, 2, 3], [2, 4, 5], [3, 5, 6]], np.float32)).tolist() == [1, 2, 3, 4, 5, 6]
