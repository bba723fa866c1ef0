import math

import pytest

from eutectic.errors import RecipeError
from eutectic.search.soup import greedy

#: What averages score: of the models at these places.
SCORES = {(2, 0): 7.0, (2, 1): 5.0, (2, 0, 1): 7.0, (2, 3): 9.0, (2, 0, 3): 6.0, (2, 0, 1, 3): 6.5}


def test_best_first_and_only_what_helps() -> None:
    """Alone 5, 4, 6, 3: from model 2, model 0 helps (7), model 1 leaves it at 7, model 3 spoils it; each once."""
    tried: list[tuple[int, ...]] = []

    def score(places: tuple[int, ...]) -> float:
        tried.append(places)
        return SCORES[places]

    assert greedy([5.0, 4.0, 6.0, 3.0], score) == ((2, 0), 7.0)
    assert tried == [(2, 0), (2, 0, 1), (2, 0, 3)]


def test_an_equal_score_may_be_enough() -> None:
    """The paper adds model 1 too, which changes what is tried next."""
    assert greedy([5.0, 4.0, 6.0, 3.0], SCORES.__getitem__, "at_least") == ((2, 0, 1), 7.0)


def test_equal_models_keep_their_order() -> None:
    """Of equal scores the first is the first ingredient."""
    assert greedy([1.0, 1.0, 0.0], lambda places: 0.5) == ((0,), 1.0)


def test_one_model() -> None:
    """One model is its own soup; nothing is tried."""
    assert greedy([-math.inf], lambda places: 1 / 0) == ((0,), -math.inf)


def test_refused() -> None:
    """No models, and scores that are no numbers."""
    with pytest.raises(RecipeError, match="at least one ingredient"):
        greedy([], lambda places: 0.0)
    with pytest.raises(RecipeError, match="models 1, found nan"):
        greedy([0.0, math.nan], lambda places: 0.0)
    with pytest.raises(RecipeError, match="models 0, 1, found nan"):
        greedy([1.0, 0.0], lambda places: math.nan)
