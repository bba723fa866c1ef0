"""`eutectic merge`: carry out a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from eutectic.api import runs
from eutectic.cli.bar import Bar
from eutectic.cli.flags import read_noted
from eutectic.cli.options import AsJson, Device, Memory, Offline, Quiet, RecipeFile, Store, Threads
from eutectic.cli.show import Failure, put
from eutectic.errors import EutecticError, OutputError
from eutectic.quantities import format_bytes, format_seconds


def merge(
    context: typer.Context,
    recipe: RecipeFile,
    folder: Annotated[Path | None, typer.Argument(metavar="[OUT]", help="The output folder, as --out.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The output folder: new or empty.")] = None,
    memory: Memory = None,
    threads: Threads = None,
    device: Device = "cpu",
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of resuming.")] = False,
    offline: Offline = False,
    store: Store = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Merge models by a recipe. Run the same command again to resume after a stop."""
    out = _output(folder, out)
    read = read_noted(recipe, context.obj)
    planned = runs.plan(read, memory=memory, threads=threads, device=device, offline=offline, store=store)
    carry_out(planned, out, fresh=fresh, as_json=as_json, quiet=quiet)


def carry_out(planned: runs.Plan, out: Path, *, fresh: bool = False, as_json: bool, quiet: bool) -> None:
    """Runs a plan with a bar, and says what came of it."""
    runs.check_output(planned, out)
    try:
        with Bar(quiet or as_json) as bar:
            receipt = runs.run(planned, out, resume=not fresh, watch=[bar])
    except EutecticError as error:
        raise Failure(error) from error
    if as_json:
        put({"out": str(out), **receipt.summary()})
        return
    peak = format_bytes(receipt.memory["peak"])
    typer.echo(
        f"{out}: {format_bytes(receipt.nbytes)} in {format_seconds(receipt.seconds)}"
        f"{', resumed' if receipt.resumed else ''}; memory {peak} of {format_bytes(receipt.memory['planned'])} planned"
    )
    if receipt.truncation:
        typer.echo(f"relative error of cutting to the planned ranks: {receipt.truncation['relative_error']:.3g}")
    if receipt.non_finite:
        typer.echo(f"warning: values that are not finite in {', '.join(receipt.non_finite)}", err=True)


def _output(folder: Path | None, out: Path | None) -> Path:
    if folder is not None and out is not None and folder != out:
        raise OutputError(f"expected one output folder, found {folder} and {out}")
    found = out or folder
    if found is None:
        raise OutputError("expected an output folder, found none; give --out FOLDER")
    return found
