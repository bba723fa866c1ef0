import pytest
import torch

from eutectic.errors import RecipeError
from tests.make.sites import merge, table

#: What an option gives up of the declared laws, for tests/laws/test_methods.py.
LAWS_ASIDE = {"normalize": {"fixed_point", "identity", "shift"}}  # a sum that is not divided is no average

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
A = table([1, 2, 3], [4, 5, 6])
B = table([3, 2, 1], [0, -1, 8])


@FUSED
def test_by_hand(fused: bool) -> None:
    """Weights 1 and 3: (1 A + 3 B) / 4, first element (1 + 9) / 4 = 2.5."""
    merged = merge(("linear", {"weight": (1.0, 3.0)}), [A, B], fused=fused)
    assert merged.tolist() == [[2.5, 2, 1.5], [1, 0.5, 7.5]]


@FUSED
def test_equal_weights_are_the_mean(fused: bool) -> None:
    """The uniform soup: (A + B) / 2."""
    assert merge(("linear", {}), [A, B], fused=fused).tolist() == [[2, 2, 2], [2, 2, 7]]


@FUSED
def test_negative_weight(fused: bool) -> None:
    """Weights 2 and -1 add up to 1: 2 A - B."""
    merged = merge(("linear", {"weight": (2.0, -1.0)}), [A, B], fused=fused)
    assert merged.tolist() == [[-1, 2, 5], [8, 11, 4]]


@FUSED
def test_sum(fused: bool) -> None:
    """Not normalized, weights 1 and -1 give the difference."""
    merged = merge(("linear", {"weight": (1.0, -1.0), "normalize": False}), [A, B], fused=fused)
    assert merged.tolist() == [[-2, 0, 2], [4, 6, -2]]


@FUSED
@pytest.mark.parametrize("weight", [(1.0, -1.0, 0.0), (0.1, 0.2, -0.3), (0.0, 0.0, 0.0)], ids=str)
def test_weights_that_add_up_to_nothing(fused: bool, weight: tuple[float, ...]) -> None:
    """They cannot be normalized, also where floats leave a rest of 5e-17."""
    with pytest.raises(RecipeError, match=r"w: weights add up to 0 .* normalize: false"):
        merge(("linear", {"weight": weight}), [A, B, A], fused=fused)


@FUSED
def test_one_model_is_itself(fused: bool) -> None:
    """Bit for bit: negative zeros, denormals and the largest numbers included."""
    model = torch.tensor([-0.0, 0.0, 1e-45, -3.4e38, float("inf"), 1 / 3])
    merged = merge(("linear", {"weight": 0.7}), [model], fused=fused)
    assert torch.equal(merged.view(torch.int32), model.view(torch.int32))


@FUSED
def test_half_precision_is_rounded_once(fused: bool) -> None:
    """Three bfloat16 of 1, 1 and 1 + 2**-7 average to 1 + 2**-7 / 3, nearest 1; rounding sums on the way gives more."""
    ones = torch.ones(1, dtype=torch.bfloat16)
    assert merge(("linear", {}), [ones, ones, ones + 2**-7], fused=fused).tolist() == [1.0]
    assert merge(("linear", {}), [ones, ones + 2**-7, ones + 2**-7], fused=fused).tolist() == [1 + 2**-7]
