"""Reads recipes from files, text and mappings; every error at once, with the line it is on."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from eutectic.errors import RecipeError
from eutectic.recipe.anchors import Anchors
from eutectic.recipe.calibration import Calibration, Head
from eutectic.recipe.check import MOST_PROBLEMS, Key, Problem, dotted, problems
from eutectic.recipe.document import LARGEST_TEXT, DocumentError, Node, at, compose, node_of
from eutectic.recipe.globs import expand
from eutectic.recipe.mergekit import read as mergekit
from eutectic.recipe.model import ModelEntry, Output, Recipe, Rule, Slice, SliceSource, Step
from eutectic.recipe.values import phrase, show
from eutectic.recipe.vocabulary import Fill, TokenSource, Vocabulary

#: Whose keys stand below a key of the dialect.
_PARTS: dict[str, type[BaseModel]] = {
    "models": ModelEntry,
    "recipe": Recipe,
    "method": Step,
    "rules": Rule,
    "slices": Slice,
    "sources": SliceSource,
    "output": Output,
    "calibration": Calibration,
    "anchors": Anchors,
    "head": Head,
    "vocabulary": Vocabulary,
    "fill": Fill,
    "tokens": TokenSource,
}
#: A message lists this many errors.
MOST_ERRORS = 100


def read_recipe(
    source: str | os.PathLike[str] | Mapping[str, Any], *, root: Path | None = None, flags: Sequence[str] = ()
) -> Recipe:
    """Returns the recipe in a file, in YAML or JSON text, or in a mapping; in our dialect or in mergekit's.

    A string is text when it has a line break, a colon followed by a space, or starts with a brace; otherwise a path.
    Relative paths start from `root`; without one, those in a file's recipe start from the file's folder, and those in
    mergekit's dialect from the working directory, as they do there. A model that is a pattern
    (`run/checkpoint-*`) becomes the models it matches now.

    Args:
        source: the recipe.
        root: where relative paths start.
        flags: of mergekit's command line, for its dialect.

    Raises:
        RecipeError: when there is no such file, or the recipe is wrong; lists every error, by line.
    """
    tops, errors, name, own = _compose(source, root)
    if mergekit.recognise(tops):
        found = mergekit.read(tops, errors, name, flags)
        return _read(found.recipe, root, name, None).noted(found.said)
    if flags:
        raise RecipeError(f"{flags[0]}: is a flag for recipes of mergekit's, and {name or 'this recipe'} is none")
    if isinstance(source, Mapping):
        return _read(dict(source), root, "", None)
    return _read_own(tops, errors, name, own)


def convert_recipe(
    source: str | os.PathLike[str] | Mapping[str, Any], *, keep_traps: bool = False, flags: Sequence[str] = ()
) -> tuple[Recipe, tuple[str, ...]]:
    """Returns a recipe of mergekit's in our dialect, and what differs from what mergekit makes of it, one line each.

    Args:
        source: as `read_recipe`.
        keep_traps: change nothing; say what surprises instead.
        flags: of mergekit's command line.

    Raises:
        RecipeError: when it is no recipe of mergekit's, or cannot be read.
    """
    tops, errors, name, _ = _compose(source, None)
    if not mergekit.recognise(tops):
        raise RecipeError(f"{name or 'the recipe'}: expected a recipe of mergekit's, with a merge_method, found none")
    found = mergekit.read(tops, errors, name, flags, mend=not keep_traps)
    recipe = _read(found.recipe, None, name, None)
    return recipe, found.said if keep_traps else found.mended


def _compose(
    source: str | os.PathLike[str] | Mapping[str, Any], root: Path | None
) -> tuple[list[Node], list[DocumentError], str, Path | None]:
    """The documents of a source, what is wrong with them as text, the file's name, and where its paths start."""
    name, text, own = "", "", root
    try:
        if isinstance(source, Mapping):
            if "merge_method" not in source:
                return [Node(None, 1, {}, 1)], [], "", root
            return [node_of(source)], [], "", root
        if isinstance(source, str) and not source.strip():
            raise RecipeError("expected a recipe or the path of one, found empty text")
        if isinstance(source, str) and ("\n" in source or ": " in source or source.lstrip()[:1] == "{"):
            text = source
        else:
            path = Path(source)
            name, text, own = str(path), _load(path), root or path.parent
        tops, errors = compose(text)
    except DocumentError as error:
        raise RecipeError(f"{at(name, error.line)}: {error.text}") from None
    return tops, errors, name, own


def _load(path: Path) -> str:
    """The text of a file, which must be small and UTF-8."""
    try:
        if not path.is_file():
            what = "a folder" if path.is_dir() else "no file"
            raise RecipeError(f"{path}: expected a recipe file, found {what} there")
        with path.open("rb") as file:
            raw = file.read(LARGEST_TEXT + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        raise RecipeError(f"{show(str(path))}: cannot be read: {error}") from None
    if len(raw) > LARGEST_TEXT:
        raise RecipeError(f"{path}: expected a recipe of at most {LARGEST_TEXT} bytes, found more")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise RecipeError(f"{path}:{line}: expected UTF-8 text, found the byte 0x{raw[error.start]:02x}") from None


def _read_own(tops: Sequence[Node], errors: Sequence[DocumentError], name: str, root: Path | None) -> Recipe:
    top = tops[0]
    if len(tops) > 1:
        raise RecipeError(f"{at(name, tops[1].line)}: expected one document, found another after ---")
    if not isinstance(top.value, dict):
        found = show(top.plain())
        raise RecipeError(f"{at(name, top.line)}: expected a mapping with models and method, found {found}")
    return _read(top.plain(), root, name, top, errors)


def _read(
    data: dict[str, Any], root: Path | None, name: str, top: Node | None, errors: Sequence[DocumentError] = ()
) -> Recipe:
    """Validates, checks, and reports everything that is wrong."""
    recipe, found = _validate(data)
    if errors:  # what a key twice or a tag hid may be missing here; that is not another error
        found = [problem for problem in found if "found none" not in problem.text]
    if not found and recipe is not None:
        expanded = expand(recipe, root)
        recipe, found = expanded.recipe, list(expanded.problems)
        if not found:
            found = [Problem(expanded.written(p.key), p.text) for p in problems(recipe, complete=not errors)]
    elif len(found) <= MOST_ERRORS and (rest := _without(data, [problem.key for problem in found])) is not None:
        partial, again = _validate(rest)
        found += problems(partial, complete=False) if partial is not None and not again else []
    if recipe is None or found or errors:
        raise RecipeError(_report(found, errors, name, top))
    return _rooted(recipe, root)


def _validate(data: dict[str, Any]) -> tuple[Recipe | None, list[Problem]]:
    try:
        return Recipe.model_validate(data), []
    except ValidationError as error:
        found = []
        for entry in error.errors(include_url=False)[:MOST_PROBLEMS]:
            key = tuple(step for step in entry["loc"] if step != "[key]")
            above = key[:-1] if entry["type"] == "extra_forbidden" else key
            part = next((_PARTS[step] for step in reversed(above) if step in _PARTS), Recipe)
            found.append(Problem(key, phrase(entry, part)))
        return None, found


def _without(data: dict[str, Any], keys: Sequence[Key]) -> dict[str, Any] | None:
    """The data without the values at these keys, so that what is wrong there does not hide the rest.

    None when one of them cannot be cut: an entry of a list has neighbours that would move.
    """
    cut: Any = data
    for key in keys:
        steps = _written(data, key)
        if len(steps) == 0 or not isinstance(steps[-1], str):
            return None
        cut = _cut(cut, steps)
    return cut  # type: ignore[no-any-return]


def _cut(data: Any, steps: Key) -> Any:
    """A copy of nested dicts and lists without the entry at `steps`."""
    first, rest = steps[0], steps[1:]
    if isinstance(data, Mapping):
        if not rest:
            return {key: value for key, value in data.items() if key != first}
        return {key: _cut(value, rest) if key == first else value for key, value in data.items()}
    if isinstance(data, Sequence) and not isinstance(data, str):
        return [_cut(value, rest) if place == first else value for place, value in enumerate(data)]
    return data


def _written(data: Any, key: Key) -> Key:
    """A key of the full form as it stands in the data, where short forms leave steps out; as far as it goes."""
    steps: list[str | int] = []
    for step in key:
        inside = data if isinstance(data, Mapping) else dict(enumerate(data)) if isinstance(data, list | tuple) else {}
        if step in inside:
            data = inside[step]
        elif step == "parameters" and isinstance(data, Mapping) and len(data) == 1 and "method" not in data:
            step = next(iter(data))  # {ties: {density: 0.2}}
            data = data[step]
        else:
            continue  # one thing for a list of one, or a parameter beside the other keys
        steps.append(step)
    return tuple(steps)


def _line(top: Node, steps: Key) -> int:
    """The line of a key as it is written."""
    line, node = top.line, top
    for step in steps:
        if isinstance(node.value, dict):
            line, node = node.keys[str(step)], node.value[str(step)]
        elif isinstance(node.value, list):
            node = node.value[int(step)]
            line = node.line
    return line


def _report(found: Sequence[Problem], errors: Sequence[DocumentError], name: str, top: Node | None) -> str:
    """All problems, one a line, by line."""
    if top is None:
        return "\n".join(f"{dotted(key)}: {text}" for key, text in found[:MOST_ERRORS])
    data = top.plain()
    lines = [(error.line, error.text) for error in errors]
    lines += [(_line(top, _written(data, key)), f"{dotted(key)}: {text}") for key, text in found]
    ordered = sorted(dict.fromkeys(lines))
    more = [] if len(ordered) <= MOST_ERRORS else [f"and {len(ordered) - MOST_ERRORS} more"]
    return "\n".join([f"{at(name, line)}: {text}" for line, text in ordered[:MOST_ERRORS]] + more)


def _rooted(recipe: Recipe, root: Path | None) -> Recipe:
    """The recipe, and the recipes within, with the folder their relative paths start from."""
    if root is None:
        return recipe
    models = tuple(
        entry if entry.recipe is None else entry.model_copy(update={"recipe": _rooted(entry.recipe, root)})
        for entry in recipe.models
    )
    return recipe.model_copy(update={"root": root, "models": models})
