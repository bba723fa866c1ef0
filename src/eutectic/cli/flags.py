"""Takes the flags of mergekit's command line out of ours: those that are options of ours become them."""

from collections.abc import Sequence
from pathlib import Path

import typer

from eutectic.api import recipes
from eutectic.errors import RecipeError

#: mergekit's name for an option of ours; a flag that takes no value brings it along.
_OURS: dict[str, tuple[str, ...]] = {
    "--cuda": ("--device", "cuda"),
    "--gpu-rich": ("--device", "cuda"),
    "--num-threads": ("--threads",),
    "-j": ("--threads",),
    "--out-path": ("--out",),
}


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the arguments that are ours, with mergekit's names for them replaced, and mergekit's other flags.

    What is about running a merge is dropped where none is run.
    """
    runs = arguments[:1] != ["convert"]
    ours: list[str] = []
    flags: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, same, value = argument.partition("=")
        if name in _OURS:
            option = [*_OURS[name], *([value] if same else [])]
            option += [next(rest, "")] if len(option) == 1 else []
            ours += option if runs else []
        elif name == "--device" and runs:
            wanted = value if same else next(rest, "")
            ours += ["--device", "cpu" if wanted == "auto" else wanted]
        elif recipes.is_flag(argument):
            flags.append(argument)
            flags += [next(rest, "")] if recipes.takes_value(argument) else []
        else:
            ours.append(argument)
    return ours, flags


def read_noted(path: Path, flags: Sequence[str] | None) -> recipes.Recipe:
    """Reads a recipe with mergekit's flags, and warns of what surprises in it on standard error."""
    read = recipes.read(path, flags=flags or ())
    for note in read.notes:
        typer.echo(f"warning: {note}", err=True)
    return read


def refuse_command(name: str) -> None:
    """Refuses a command of mergekit's.

    Raises:
        RecipeError: with what serves instead.
    """
    said = recipes.replaced_command(name)
    if said is not None:
        raise RecipeError(f"{name} is a command of mergekit's: {said}")
