import numpy as np
import pytest

from eutectic.stats.coefficients import InverseNorms, RunAverage
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


def test_averages_along_a_run_by_hand() -> None:
    """Of three, oldest first: thirds; 1, 2, 3 of 6; with decay 1/2 the recursion leaves 1/4, then 1/4 and 1/2."""
    assert RunAverage("simple").weights(3) == pytest.approx((1 / 3,) * 3)
    assert RunAverage("linear").weights(3) == pytest.approx((1 / 6, 1 / 3, 1 / 2))
    assert RunAverage("exponential", 0.5).weights(3) == (0.25, 0.25, 0.5)
    assert RunAverage("normalized", 0.5).weights(3) == pytest.approx((1 / 7, 2 / 7, 4 / 7))


def test_the_recursion_may_favour_the_oldest() -> None:
    """Ten checkpoints and a = 0.1: the oldest keeps 0.9^9 = 0.387, the newest has 0.1; normalized, it is reversed."""
    recursion = RunAverage("exponential", 0.9).weights(10)
    assert (recursion[0], recursion[-1]) == pytest.approx((0.387, 0.1), abs=1e-3)
    normalized = RunAverage("normalized", 0.9).weights(10)
    assert normalized[0] < normalized[-1] < 0.2


@pytest.mark.parametrize("kind", ["simple", "linear", "exponential", "normalized"])
@pytest.mark.parametrize("decay", [0.0, 0.3, 1.0])
def test_averages_add_up_to_one(kind: str, decay: float) -> None:
    """Whatever the number of checkpoints; one has all the weight. With decay 0 the newest has it all."""
    for n in (1, 2, 7):
        found = RunAverage(kind, decay).weights(n)  # type: ignore[arg-type]
        assert len(found) == n
        assert sum(found) == pytest.approx(1.0)
    if decay == 0 and kind in {"exponential", "normalized"}:
        assert RunAverage(kind, decay).weights(3) == (0.0, 0.0, 1.0)  # type: ignore[arg-type]
