"""`eutectic convert`: a recipe of mergekit's in our dialect."""

from pathlib import Path
from typing import Annotated

import typer

from eutectic.api import recipes
from eutectic.cli.options import RecipeFile
from eutectic.errors import OutputError


def convert(
    context: typer.Context,
    recipe: RecipeFile,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write it. Default: print it.")] = None,
    keep_traps: Annotated[
        bool, typer.Option("--keep-traps", help="Make what mergekit makes, surprises included.")
    ] = False,
) -> None:
    """Write a recipe of mergekit's in our dialect, its traps mended. What changed is said on standard error."""
    written, changes = recipes.convert(recipe, keep_traps=keep_traps, flags=context.obj or ())
    for change in changes:
        typer.echo(f"{'kept' if keep_traps else 'changed'}: {change}", err=True)
    if out is None:
        typer.echo(written.to_yaml(), nl=False)
        return
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(written.to_yaml())
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}; choose another file") from error
