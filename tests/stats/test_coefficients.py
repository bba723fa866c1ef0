import numpy as np
import pytest

from eutectic.stats.coefficients import InverseNorms
from eutectic.stats.fold import Scope
from eutectic.stats.weights import Energy


def test_by_hand() -> None:
    """Norms 1, 2 and 4: inverses 1, 1/2 and 1/4 add up to 7/4, so shares are 4/7, 2/7 and 1/7; times n / 2 = 3/2."""
    energy = np.array([1.0, 4.0, 16.0])
    assert InverseNorms(scale=1).solve(energy, 3) == pytest.approx((4 / 7, 2 / 7, 1 / 7))
    assert InverseNorms().solve(energy, 3) == pytest.approx((6 / 7, 3 / 7, 3 / 14))
    assert InverseNorms(scale=0.7).solve(energy, 3) == pytest.approx((0.4, 0.2, 0.1))


def test_the_base_does_not_count() -> None:
    """Energies of weights begin with the base's where there is one."""
    assert InverseNorms(scale=1).solve(np.array([100.0, 1.0, 4.0]), 2) == pytest.approx((2 / 3, 1 / 3))


def test_equal_norms_weigh_equally() -> None:
    """One model has all the weight there is, and n equal ones a share each."""
    assert InverseNorms(scale=1).solve(np.array([9.0] * 4), 4) == pytest.approx((0.25,) * 4)
    assert InverseNorms().solve(np.array([9.0]), 1) == pytest.approx((0.5,))


def test_no_norm_at_all() -> None:
    """A model that does not differ takes almost all weight, and nothing is divided by zero."""
    found = InverseNorms("delta", scale=1).solve(np.array([0.0, 1.0]), 2)
    assert found == pytest.approx((1.0, 1e-12))
    assert InverseNorms(scale=1).solve(np.zeros(2), 2) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize(
    ("of", "per", "statistic"),
    [
        ("finetuned", "model", Energy(Scope.MODEL, "weights")),
        ("finetuned", "tensor", Energy(Scope.TENSOR, "weights")),
        ("delta", "model", Energy(Scope.MODEL, "deltas")),
        ("delta", "tensor", Energy(Scope.TENSOR, "deltas")),
    ],
)
def test_what_it_is_made_from(of: str, per: str, statistic: Energy) -> None:
    """Whose norm and over what decide the statistic."""
    assert InverseNorms(of, per).statistic == statistic  # type: ignore[arg-type]
