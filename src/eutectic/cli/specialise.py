"""`eutectic specialise`: the model of one task, from an output that holds parts for several."""

from pathlib import Path
from typing import Annotated

import typer

from eutectic.api import runs
from eutectic.cli.merge import carry_out
from eutectic.cli.options import AsJson, Memory, Offline, Quiet, Threads


def specialise(
    model: Annotated[Path, typer.Argument(help="A folder that a method with parts for each task wrote.")],
    task: Annotated[str, typer.Option("--task", help="The task: a model's name in its recipe, or its number from 1.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The output folder: new or empty.")],
    base: Annotated[
        str | None, typer.Option(help="The base of the merge, if it is not where its receipt says, or was copied.")
    ] = None,
    memory: Memory = None,
    threads: Threads = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of resuming.")] = False,
    offline: Offline = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make the model of one task from an output that holds parts for several.

    Methods such as EMR-Merging write such outputs.

    The result is a plain model folder with its receipt. Run the same command again to resume after a stop.
    """
    recipe = runs.specialise(model, task, base=base)
    planned = runs.plan(recipe, memory=memory, threads=threads, offline=offline)
    carry_out(planned, out, fresh=fresh, as_json=as_json, quiet=quiet)
