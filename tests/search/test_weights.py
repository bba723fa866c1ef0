"""A search for weights by their score alone."""

import pytest

from eutectic.errors import RecipeError
from eutectic.search.weights import Trial, best, loss_of, search

PEAK = (0.8, -0.5, 0.3)


def hill(weights: tuple[float, ...]) -> float:
    """Highest at PEAK."""
    return -sum((weight - peak) ** 2 for weight, peak in zip(weights, PEAK, strict=True))


def test_a_hill_is_climbed() -> None:
    """60 scores find a smooth hill's top of three weights to 0.05; the first trial is all zeros."""
    trials = search(hill, 3, budget=60, penalty=0.0)
    assert trials[0] == Trial((0.0, 0.0, 0.0), hill((0, 0, 0)), -hill((0, 0, 0)))
    assert best(trials).weights == pytest.approx(PEAK, abs=0.05)
    assert len(trials) <= 60
    assert trials == search(hill, 3, budget=60, penalty=0.0)


def test_bounds_and_budget_are_kept() -> None:
    """A slope that never ends is climbed to the bound; five scores are five scores."""
    trials = search(sum, 2, budget=50, bound=0.7, penalty=0.0)
    assert best(trials).weights == pytest.approx((0.7, 0.7))
    assert max(abs(weight) for trial in trials for weight in trial.weights) <= 0.7
    shown: list[tuple[float, ...]] = []
    search(lambda weights: shown.append(weights) or hill(weights), 3, budget=5)  # type: ignore[func-returns-value]
    assert len(shown) <= 5
    assert len(set(shown)) == len(shown)


def test_the_penalty() -> None:
    """Mean magnitude (0.5 + 1) / 2 times 0.05 is 0.0375, less the score; a weak slope is not worth its penalty."""
    assert loss_of((0.5, -1.0), 2.0, 0.05) == pytest.approx(0.0375 - 2)
    assert best(search(lambda weights: 0.001 * weights[0], 1, penalty=0.05)).weights == (0.0,)


def test_the_first_of_equals_is_best() -> None:
    """A score that never changes leaves the zeros."""
    assert best(search(lambda _: 1.0, 2, penalty=0.0)).weights == (0.0, 0.0)


@pytest.mark.parametrize(("count", "budget"), [(0, 40), (3, 4), (40, 40)])
def test_too_few_scores(count: int, budget: int) -> None:
    """Each weight is moved once at least."""
    with pytest.raises(RecipeError, match=f"takes at least {count + 2} scores, found {budget}"):
        search(hill, count, budget=budget)


def test_a_score_that_is_no_number() -> None:
    """It is named with its weights."""
    with pytest.raises(RecipeError, match=r"finite number as the score of weights \(0.0,\), found nan"):
        search(lambda _: float("nan"), 1)
