"""Makes and reads recipes, and tells of the methods they may name. No model is opened."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from eutectic.checkpoint.source import Checkpoint
from eutectic.methods import METHODS, get
from eutectic.methods.page import describe, page
from eutectic.recipe.check import check, refuse
from eutectic.recipe.globs import expand
from eutectic.recipe.mergekit import flags as mergekit_flags
from eutectic.recipe.mergekit.others import COMMANDS
from eutectic.recipe.model import ModelEntry, Recipe, Rule
from eutectic.recipe.parse import convert_recipe, read_recipe
from eutectic.recipe.schema import json_schema

Model = Checkpoint | Recipe | ModelEntry | Mapping[str, Any] | str | os.PathLike[str]
_RULE_KEYS = ("role", "blocks", "models", "keep", "method")


def describe_method(name: str) -> dict[str, Any]:
    """Returns a method's declarations as plain data.

    Raises:
        RecipeError: when there is no such method.
    """
    return describe(get(name))


def explain_method(name: str) -> str:
    """Returns a page of text on a method.

    Raises:
        RecipeError: when there is no such method.
    """
    return page(get(name))


def rule(match: str | Sequence[str] | None = None, **settings: Any) -> dict[str, Any]:
    """Makes a rule for `merge`: `rule("*.self_attn.*", density=0.5)`. It is checked with the recipe it stands in.

    Args:
        match: globs on the output tensor's name.
        settings: `role`, `blocks`, `models`, `keep`, `method` or `set` as in a recipe; anything else is set as a
            parameter.
    """
    written: dict[str, Any] = {} if match is None else {"match": match}
    written |= {key: settings.pop(key) for key in _RULE_KEYS if key in settings}
    values = settings.pop("set", None)
    if settings and (values is None or isinstance(values, Mapping)):
        values = {**(values or {}), **settings}
    return written if values is None else {**written, "set": values}


def merge(
    models: Sequence[Model],
    *,
    method: Any,
    base: Checkpoint | str | os.PathLike[str] | None = None,
    rules: Sequence[Rule | Mapping[str, Any]] = (),
    seed: int = 0,
    **options: Any,
) -> Recipe:
    """Makes a recipe. Nothing is read; `plan` and `run` carry it out.

    Args:
        models: paths, references, open checkpoints, recipes (merged on the fly), or mappings with per-model values
            such as `{"model": "code/", "weight": 0.6}`.
        method: a name, `{name: {parameter: value}}`, or a list of these: transforms, then one combine.
        base: the base, for methods that work on differences from it.
        rules: exceptions, later ones win; see `rule`.
        seed: of every random draw.
        options: other keys of a recipe, such as `output={"dtype": "bfloat16"}` or `missing="base"`.

    Raises:
        RecipeError: when the recipe asks for what does not exist; everything at once.
    """
    data: dict[str, Any] = {
        "models": [_entry(model) for model in models],
        "method": method,
        "rules": [each.plain() if isinstance(each, Rule) else dict(each) for each in rules],
        "seed": seed,
        **options,
    }
    if base is not None:
        data["base"] = base.reference if isinstance(base, Checkpoint) else os.fspath(base)
    return read_recipe(data)


def _entry(model: Model) -> Any:
    if isinstance(model, Checkpoint):
        return model.reference
    if isinstance(model, Mapping) and isinstance(model.get("model"), Checkpoint):
        return {**model, "model": model["model"].reference}
    if isinstance(model, str | Mapping | Recipe | ModelEntry):
        return model
    return os.fspath(model)


def read(recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str], *, flags: Sequence[str] = ()) -> Recipe:
    """Reads a recipe from a YAML or JSON file, or from plain data; a `Recipe` is checked and returned as it is.

    Recipes of mergekit's are read as mergekit reads them; `Recipe.notes` says what surprises in them.

    Args:
        recipe: what to read.
        flags: of mergekit's command line, such as `["--random-seed", "7"]`, for its recipes.

    Raises:
        RecipeError: with file, line, what was expected, and the nearest key; everything at once.
    """
    if isinstance(recipe, Recipe):
        expanded = expand(recipe, recipe.root)
        refuse(expanded.problems)
        check(expanded.recipe)  # one made from parts has not been
        return expanded.recipe.noted(recipe.notes)
    return read_recipe(recipe, flags=flags)


def convert(
    recipe: Mapping[str, Any] | str | os.PathLike[str], *, keep_traps: bool = False, flags: Sequence[str] = ()
) -> tuple[Recipe, tuple[str, ...]]:
    """Writes a recipe of mergekit's in our dialect, and says what differs, one line each.

    Args:
        recipe: its file or plain data.
        keep_traps: make what mergekit makes, and say what surprises in it; otherwise that is mended.
        flags: as `read`.

    Raises:
        RecipeError: when it is no recipe of mergekit's, or asks for what cannot be.
    """
    return convert_recipe(recipe, keep_traps=keep_traps, flags=flags)


def is_flag(argument: str) -> bool:
    """Whether an argument of a command line is a flag of mergekit's that `read` takes."""
    return mergekit_flags.is_flag(argument)


def takes_value(flag: str) -> bool:
    """Whether such a flag is followed by its value."""
    return mergekit_flags.takes_value(flag)


def replaced_command(name: str) -> str | None:
    """Says what serves instead of a command of mergekit's; None when it has none of that name."""
    return COMMANDS.get(name if name == "bakllama" or name.startswith("mergekit-") else f"mergekit-{name}")


__all__ = [
    "METHODS",
    "Recipe",
    "convert",
    "describe_method",
    "explain_method",
    "is_flag",
    "json_schema",
    "merge",
    "read",
    "replaced_command",
    "rule",
    "takes_value",
]
