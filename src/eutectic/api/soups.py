"""The greedy soup: averages that are scored."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from eutectic.api.recipes import Model, merge
from eutectic.api.runs import Receipt, run
from eutectic.api.trials import Trials
from eutectic.checkpoint.source import Checkpoint
from eutectic.recipe.model import Recipe
from eutectic.search.soup import Accept, greedy


@dataclass(frozen=True)
class Soup:
    """What a search for a soup found.

    Attributes:
        recipe: the average of the ingredients, which made the output.
        ingredients: the models it averages, in the order in which they were added.
        score: of their average.
        scores: of each model alone, in the order given.
        receipt: of the output.
    """

    recipe: Recipe
    ingredients: tuple[str, ...]
    score: float
    scores: tuple[float, ...]
    receipt: Receipt


@overload
def greedy_soup(
    models: Sequence[Model] | str,
    score: Callable[[Path], float],
    *,
    out: str | os.PathLike[str],
    show: Literal["folder"] = ...,
    accept: Accept = ...,
    memory: str | int | None = ...,
    threads: int | None = ...,
    **options: Any,
) -> Soup: ...
@overload
def greedy_soup(
    models: Sequence[Model] | str,
    score: Callable[[Checkpoint], float],
    *,
    out: str | os.PathLike[str],
    show: Literal["checkpoint"],
    accept: Accept = ...,
    memory: str | int | None = ...,
    threads: int | None = ...,
    **options: Any,
) -> Soup: ...
def greedy_soup(
    models: Sequence[Model] | str,
    score: Callable[[Any], float],
    *,
    out: str | os.PathLike[str],
    show: Literal["folder", "checkpoint"] = "folder",
    accept: Accept = "better",
    memory: str | int | None = None,
    threads: int | None = None,
    **options: Any,
) -> Soup:
    """Averages models, best first, as long as the average scores better, and writes the best average.

    Each of n models is scored alone and each but the best once more in an average: 2 n - 1 scores in all. Source: Model
    soups, arXiv:2203.05482.

    Args:
        models: as in `merge`, or one pattern such as `"runs/*"`.
        score: what a merged model is worth on data that the result will not be judged by; higher is better.
        out: a new or empty folder for the result.
        show: what `score` is given: a complete model's folder, beside `out` and gone after the call, or an open
            checkpoint that merges as it is read and writes nothing.
        accept: add a model where the score rises (`better`), or also where it stays (`at_least`, as the paper).
        memory: as in `plan`.
        threads: as in `plan`.
        options: other keys of a recipe, as in `merge`.

    Raises:
        OutputError: when there is something in the output folder.
        RecipeError: when a score is not a number, or as `merge`.
        CheckpointError: as `run`.
        MismatchError: as `run`.
    """
    trials = Trials(out, score, show, memory, threads)
    everything = merge([models] if isinstance(models, str) else models, method="linear", **options)

    def average(places: Sequence[int]) -> Recipe:
        return everything.model_copy(update={"models": tuple(everything.models[place] for place in places)})

    with trials:

        def tried(places: tuple[int, ...]) -> float:
            return trials.score(average(places), "-".join(map(str, places)))

        scores = tuple(tried((place,)) for place in range(len(everything.models)))
        chosen, best = greedy(scores, tried, accept)
    found = average(chosen)
    receipt = run(trials.plan(found), trials.out)
    return Soup(found, tuple(everything.names[place] for place in chosen), best, scores, receipt)


__all__ = ["Soup", "greedy_soup"]
