"""Search for the weights of a merge by a score: no gradients, and few scores.

Source: Huang et al., LoraHub, COLM 2024, arXiv:2307.13269, section 3.2 and the authors' code: of N weights w within
`bound`, from 0 on, the loss plus `penalty * mean |w_i|` is lowered by a method that sees its values alone. Their code
leaves the method to nevergrad, which takes COBYLA for 5 to 50 weights and 30 to 100 scores; here it is SciPy's.
Departs: the loss is minus a score, so that higher is better as everywhere, and what was tried best is taken. The search
draws nothing, so the same scores give the same weights.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eutectic.errors import RecipeError


@dataclass(frozen=True)
class Trial:
    """Weights that were tried, what they scored, and their loss: minus the score, and the penalty."""

    weights: tuple[float, ...]
    score: float
    loss: float


def loss_of(weights: Sequence[float], score: float, penalty: float) -> float:
    """Returns minus the score, plus `penalty` times the weights' mean magnitude."""
    return penalty * math.fsum(map(abs, weights)) / len(weights) - score


def search(
    score: Callable[[tuple[float, ...]], float],
    count: int,
    *,
    budget: int = 40,
    bound: float = 1.5,
    penalty: float = 0.05,
) -> tuple[Trial, ...]:
    """Tries weights until they settle or the budget is spent; returns every trial, in order.

    Args:
        score: what weights (count,) are worth; higher is better. The first it sees are all 0.
        count: how many weights.
        budget: scores at most.
        bound: the largest magnitude of a weight.
        penalty: of the mean magnitude of the weights, in units of the score.

    Raises:
        RecipeError: when there are no weights, the budget cannot move each of them once, or a score is not finite.
    """
    if count < 1 or budget < count + 2:
        raise RecipeError(f"a search over {count} weights takes at least {count + 2} scores, found {budget}")
    trials: list[Trial] = []

    def loss(shares: Sequence[float]) -> float:
        weights = tuple(min(bound, max(-bound, float(share) * bound)) for share in shares)
        known = next((trial for trial in trials if trial.weights == weights), None)
        if known is not None:
            return known.loss
        found = float(score(weights))
        if not math.isfinite(found):
            raise RecipeError(f"expected a finite number as the score of weights {weights}, found {found}")
        trials.append(Trial(weights, found, loss_of(weights, found, penalty)))
        return trials[-1].loss

    _minimize(loss, count, budget)
    return tuple(trials)


def best(trials: Sequence[Trial]) -> Trial:
    """Returns the trial with the least loss; of equal ones the first."""
    return min(trials, key=lambda trial: trial.loss)


def _minimize(loss: Callable[[Sequence[float]], float], count: int, budget: int) -> None:
    """Lowers a loss over the cube from -1 to 1, from its middle on."""
    try:
        from scipy.optimize import minimize
    except ImportError as error:
        raise RecipeError("a search needs scipy, which is not installed; pip install 'eutectic[search]'") from error
    options = {"maxiter": budget, "rhobeg": 0.5}
    minimize(loss, [0.0] * count, method="COBYLA", bounds=[(-1.0, 1.0)] * count, options=options)
