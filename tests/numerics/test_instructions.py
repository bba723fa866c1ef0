"""What compiled loops say to the processor."""

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray

from eutectic.numerics import instructions


def test_wide_registers_are_asked_for() -> None:
    """Functions say how wide vectors may be, in the words of the compiler."""

    @njit(nogil=True)
    def double(x: NDArray[np.float32]) -> None:
        instructions.widest()
        for i in range(len(x)):
            x[i] *= np.float32(2)

    values = np.ones(100, np.float32)
    double(values)
    assert values.tolist() == [2.0] * 100
    (text,) = double.inspect_llvm().values()
    assert '"prefer-vector-width"="512"' in text


@pytest.mark.parametrize("value", [0.0, -1.5, 3e38, float("inf")])
def test_bits_of_a_number_and_back(value: float) -> None:
    """As numpy has them."""

    @njit(nogil=True)
    def there_and_back(x: np.float32) -> tuple[np.uint32, np.float32]:
        bits = instructions.as_bits(x)
        return bits, instructions.as_float(bits)

    bits, back = there_and_back(np.float32(value))
    assert bits == np.float32(value).view(np.uint32)
    assert back == np.float32(value)


@pytest.mark.parametrize("bit", [0, 1, 31, 32, 63])
def test_first_bit(bit: int) -> None:
    """The lowest one counts."""

    @njit(nogil=True)
    def lowest(word: np.uint64) -> int:
        found: int = instructions.first_bit(word)
        return found

    assert lowest(np.uint64(1 << bit)) == bit
    assert lowest(np.uint64(1 << bit | 1 << 63)) == bit
