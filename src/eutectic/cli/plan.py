"""`eutectic plan`: what a merge would read, hold, write and do, from headers alone."""

from typing import Annotated

import typer

from eutectic.api import recipes, runs
from eutectic.cli.options import AsJson, Device, Memory, Offline, RecipeFile, Store, Threads
from eutectic.cli.show import put


def plan(
    context: typer.Context,
    recipe: RecipeFile,
    memory: Memory = None,
    threads: Threads = None,
    device: Device = "cpu",
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor with its fate and values.")] = False,
    offline: Offline = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show what a merge costs and does. Reads headers only."""
    read = recipes.read(recipe, flags=context.obj or ())
    planned = runs.plan(read, memory=memory, threads=threads, device=device, offline=offline, store=store)
    if as_json:
        put(planned.describe())
    else:
        typer.echo(planned.explain(tensors=tensors, speed=runs.speed.last()))
