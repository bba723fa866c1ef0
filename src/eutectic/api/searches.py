"""Searches for weights: merges that are scored, until the weights settle (LoraHub)."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from eutectic.api.recipes import read
from eutectic.api.runs import Receipt, run
from eutectic.api.trials import Trials
from eutectic.checkpoint.source import Checkpoint
from eutectic.errors import RecipeError
from eutectic.recipe.chain import ambiguous, bind, owners
from eutectic.recipe.model import Recipe
from eutectic.search.weights import Trial, best, search

WEIGHT = "weight"


@dataclass(frozen=True)
class Search:
    """What a search for weights found.

    Attributes:
        recipe: the given one with the best weights, which made the output.
        weights: of the models, in their order.
        score: of the output.
        trials: everything that was tried, in order.
        receipt: of the output.
    """

    recipe: Recipe
    weights: tuple[float, ...]
    score: float
    trials: tuple[Trial, ...]
    receipt: Receipt


@overload
def search_weights(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str],
    score: Callable[[Path], float],
    *,
    out: str | os.PathLike[str],
    show: Literal["folder"] = ...,
    budget: int = ...,
    bound: float = ...,
    penalty: float = ...,
    memory: str | int | None = ...,
    threads: int | None = ...,
) -> Search: ...
@overload
def search_weights(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str],
    score: Callable[[Checkpoint], float],
    *,
    out: str | os.PathLike[str],
    show: Literal["checkpoint"],
    budget: int = ...,
    bound: float = ...,
    penalty: float = ...,
    memory: str | int | None = ...,
    threads: int | None = ...,
) -> Search: ...
def search_weights(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str],
    score: Callable[[Any], float],
    *,
    out: str | os.PathLike[str],
    show: Literal["folder", "checkpoint"] = "folder",
    budget: int = 40,
    bound: float = 1.5,
    penalty: float = 0.05,
    memory: str | int | None = None,
    threads: int | None = None,
) -> Search:
    """Searches for the weights of a recipe's models by a score, and writes the best merge.

    With `method: [factorwise, task_arithmetic]` on adapters this is LoraHub (arXiv:2307.13269): A and B are each
    summed with the weights. With `task_arithmetic` alone the updates are. The weights start at 0, so that the first
    merge is the base. What comes of it is a recipe with numbers, which needs no score to be run again.

    Args:
        recipe: whose last step with a `weight` is given one a model; no weight is set in it.
        score: what a merge is worth on data that the result will not be judged by; higher is better.
        out: a new or empty folder for the result.
        show: what `score` is given: a complete model's folder, beside `out` and gone after the call, or an open
            checkpoint that merges as it is read and writes nothing.
        budget: scores at most.
        bound: the largest magnitude of a weight.
        penalty: of the weights' mean magnitude, in units of the score.
        memory: as in `plan`.
        threads: as in `plan`.

    Raises:
        OutputError: when there is something in the output folder.
        RecipeError: when the recipe has no weight to search or sets one, the budget is too small, a score is not a
            finite number, or scipy is not installed.
        CheckpointError: as `run`.
        MismatchError: as `run`.
    """
    given = read(recipe)
    key = _searched(given)
    trials = Trials(out, score, show, memory, threads)
    with trials:
        trials.plan(given)  # whatever is wrong with the recipe is said before anything is merged

        def tried(weights: tuple[float, ...]) -> float:
            return trials.score(_weighed(given, key, weights), "trial")

        made = search(tried, len(given.models), budget=budget, bound=bound, penalty=penalty)
    chosen = best(made)
    found = _weighed(given, key, chosen.weights)
    receipt = run(trials.plan(found), trials.out)
    return Search(found, chosen.weights, chosen.score, made, receipt)


def _searched(recipe: Recipe) -> str:
    """Returns how the weight that is searched is written.

    Raises:
        RecipeError: when there is none, or the recipe says what it is.
    """
    chain = bind(recipe.method)
    if not owners(chain, WEIGHT):
        steps = ", ".join(step.method for step in recipe.method)
        raise RecipeError(f"expected a step that has a weight for each model, found {steps}; use task_arithmetic")
    last = recipe.method[owners(chain, WEIGHT)[-1][0]].method
    key = f"{last}.{WEIGHT}" if ambiguous(chain, WEIGHT) else WEIGHT
    own = [step.parameters for step in recipe.method if step.method == last]
    said = [*(entry.parameters for entry in recipe.models), *(rule.set for rule in recipe.rules)]
    if any(WEIGHT in each for each in own) or any({WEIGHT, f"{last}.{WEIGHT}"} & set(each) for each in said):
        raise RecipeError(f"the weights of {last} are searched; take those out that the recipe sets")
    return key


def _weighed(recipe: Recipe, key: str, weights: Sequence[float]) -> Recipe:
    entries = (
        entry.model_copy(update={"parameters": {**entry.parameters, key: weight}})
        for entry, weight in zip(recipe.models, weights, strict=True)
    )
    return recipe.model_copy(update={"models": tuple(entries)})


__all__ = ["Search", "Trial", "search_weights"]
