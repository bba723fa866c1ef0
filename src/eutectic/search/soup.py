"""Greedy soup: add models to an average, best first, as long as its score rises.

Source: Wortsman et al., Model soups, ICML 2022, arXiv:2203.05482, Recipe 1, and the authors' code. The paper adds a
model whose average scores as well as before (`at_least`), the code only where it scores better (`better`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

from eutectic.errors import RecipeError

Accept = Literal["better", "at_least"]


def greedy(
    scores: Sequence[float], score: Callable[[tuple[int, ...]], float], accept: Accept = "better"
) -> tuple[tuple[int, ...], float]:
    """Returns which of n models to average, in the order they were added, and the score of their average.

    Args:
        scores: what each model scores alone; higher is better. Of equal ones the first comes first.
        score: what the average of some of them scores, by their places.
        accept: whether an equal score is enough to add a model.

    Raises:
        RecipeError: when there are no models, or a score is not a number.
    """
    if not scores:
        raise RecipeError("a soup has at least one ingredient, found none")
    for place, alone in enumerate(scores):
        _number(alone, (place,))
    first, *others = sorted(range(len(scores)), key=lambda place: -scores[place])
    chosen: tuple[int, ...] = (first,)
    best = scores[first]
    for place in others:
        tried = (*chosen, place)
        found = _number(score(tried), tried)
        if found > best or (accept == "at_least" and found == best):
            chosen, best = tried, found
    return chosen, best


def _number(found: float, places: tuple[int, ...]) -> float:
    if math.isnan(found):
        raise RecipeError(f"expected a number as the score of models {', '.join(map(str, places))}, found nan")
    return found
