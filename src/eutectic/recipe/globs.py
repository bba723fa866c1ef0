"""Models named by a pattern: `run/checkpoint-*` becomes one entry for each path it matches, in natural order.

That is done while a recipe is read, so a plan, an output's own recipe and `verify` see the models and no pattern.
"""

import glob
import re
from dataclasses import dataclass
from pathlib import Path

from eutectic.recipe.check import Key, Problem
from eutectic.recipe.model import ModelEntry, Recipe
from eutectic.recipe.values import show


@dataclass(frozen=True)
class Expanded:
    """A recipe without patterns.

    Attributes:
        recipe: the recipe.
        problems: patterns that match nothing, or have a name; keys are of the recipe as written.
        places: for each model, where in the written list it came from, and the same of the recipe it is, if it is one.
    """

    recipe: Recipe
    problems: tuple[Problem, ...]
    places: tuple[tuple[int, "Expanded | None"], ...]

    def written(self, key: Key) -> Key:
        """Returns the key of the recipe as written that a key of this one came from."""
        if len(key) < 2 or key[0] != "models" or not isinstance(key[1], int):
            return key
        place, inner = self.places[key[1]]
        rest = key[2:]
        if inner is not None and rest[:1] == ("recipe",):
            rest = ("recipe", *inner.written(rest[1:]))
        return ("models", place, *rest)


def expand(recipe: Recipe, root: Path | None) -> Expanded:
    """Writes out the patterns of a recipe and of the recipes within; relative ones start from `root`."""
    start = root or recipe.root or Path()
    models: list[ModelEntry] = []
    places: list[tuple[int, Expanded | None]] = []
    problems: list[Problem] = []
    for place, entry in enumerate(recipe.models):
        if entry.recipe is not None:
            inner = expand(entry.recipe, root)
            problems += (Problem(("models", place, "recipe", *key), text) for key, text in inner.problems)
            models.append(entry if inner.recipe == entry.recipe else entry.model_copy(update={"recipe": inner.recipe}))
            places.append((place, inner))
        elif entry.model is None or not is_pattern(entry.model, start):
            models.append(entry)
            places.append((place, None))
        else:
            found = matches(entry.model, start)
            if not found:
                text = f"expected a pattern that matches models, found nothing like {show(entry.model)} in {start}"
                problems.append(Problem(("models", place), text))
            elif entry.name is not None:
                text = f"a name is one model's, and {show(entry.model)} may match several; remove `name`"
                problems.append(Problem(("models", place, "name"), text))
            models += (entry.model_copy(update={"model": path}) for path in found)
            places += ((place, None) for _ in found)
    if problems or tuple(models) == recipe.models:
        return Expanded(recipe, tuple(problems), tuple((at, each) for at, each in places))
    return Expanded(recipe.model_copy(update={"models": tuple(models)}), (), tuple(places))


def is_pattern(reference: str, root: Path) -> bool:
    """Whether a reference holds `*` or `?` and is not itself the name of something."""
    return any(mark in reference for mark in "*?") and not (root / reference).exists()


def matches(pattern: str, root: Path) -> list[str]:
    """Returns the paths that match, as the pattern writes them; numbers in names are ordered as numbers."""
    return sorted(glob.glob(pattern, root_dir=root), key=_natural)


def _natural(text: str) -> list[tuple[int, str]]:
    pieces = re.split(r"([0-9]+)", text)  # text and digits take turns
    return [(int(piece), "") if at % 2 else (0, piece) for at, piece in enumerate(pieces)]
