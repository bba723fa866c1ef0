"""`eutectic surgery`: fit adapters of a merged model's features to its experts', in a file beside the model."""

from pathlib import Path
from typing import Annotated

import typer

from eutectic.api import surgery as verbs
from eutectic.cli.bar import Bar
from eutectic.cli.options import AsJson, Memory, Offline, Quiet, RecipeFile, Store, Transductive
from eutectic.cli.show import Failure, put
from eutectic.errors import EutecticError


def surgery(
    recipe: RecipeFile,
    merged: Annotated[Path, typer.Argument(help="The merged model's folder.")],
    rank: Annotated[int, typer.Option(help="Of the adapters.")] = 16,
    steps: Annotated[int, typer.Option(help="Rounds of Adam.")] = 500,
    rate: Annotated[float, typer.Option(help="Its rate.")] = 1e-3,
    batches: Annotated[int, typer.Option(help="Batches of each task a round.")] = 2,
    pool: Annotated[
        str | None,
        typer.Option(help="mean, first, last or pooler. Default: the recipe's head's, or mean.", show_default=False),
    ] = None,
    transductive: Transductive = False,
    only_plan: Annotated[bool, typer.Option("--plan", help="Show what it would do, and stop.")] = False,
    memory: Memory = None,
    store: Store = None,
    offline: Offline = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fit adapters of a merged model's features to its experts' (Representation Surgery).

    They are kept in `surgery/` in the model's folder; `eutectic.Surgery` applies them in Python.
    """
    planned = verbs.plan_surgery(
        recipe,
        merged,
        rank=rank,
        steps=steps,
        batches=batches,
        rate=rate,
        pool=pool,
        transductive=transductive,
        memory=memory,
        store=store,
        offline=offline,
    )
    if only_plan:
        put(planned.describe()) if as_json else typer.echo(planned.explain())
        return
    try:
        with Bar(quiet or as_json) as bar:
            found = verbs.surgery(planned, watch=[bar])
        found.save(merged)
    except EutecticError as error:
        raise Failure(error) from error
    if as_json:
        put({"out": str(merged / verbs.PLACE), "distances": dict(found.distances)})
        return
    for task, (before, after) in found.distances.items():
        typer.echo(f"{task}: mean distance from its expert's features {before:.4g} to {after:.4g}")
