"""`eutectic learn`: learn a recipe's coefficients from unlabelled data, and write the recipe with the numbers."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from eutectic.api import learning
from eutectic.cli.bar import Bar
from eutectic.cli.options import AsJson, Memory, Offline, Quiet, RecipeFile, Store, Threads, Transductive
from eutectic.cli.show import Failure, put
from eutectic.errors import EutecticError
from eutectic.quantities import format_bytes, format_seconds


class By(StrEnum):
    """What has a coefficient of its own."""

    tensor = "tensor"
    block = "block"
    model = "model"


def learn(
    recipe: RecipeFile,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The learned recipe. Without it, only the plan is shown.")
    ] = None,
    by: Annotated[By, typer.Option(help="What has a weight of its own for each model.")] = By.tensor,
    steps: Annotated[int, typer.Option(help="Steps of Adam.")] = 500,
    rate: Annotated[float, typer.Option(help="Its rate.")] = 1e-3,
    batches: Annotated[int, typer.Option(help="Batches of each model's data a step.")] = 2,
    start: Annotated[
        float | None,
        typer.Option(help="Where weights start. Default: the recipe's own, or 0.3.", show_default=False),
    ] = None,
    clamp: Annotated[bool, typer.Option(help="Keep weights from 0 to 1.")] = True,
    transductive: Transductive = False,
    memory: Memory = None,
    threads: Threads = None,
    store: Store = None,
    offline: Offline = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Learn the weights of a recipe's task arithmetic from unlabelled data (AdaMerging).

    What comes of it is a recipe with numbers, which is merged as any other. Run the same command again to go on after
    a stop.
    """
    planned = learning.plan_learning(
        recipe,
        by=by.value,
        steps=steps,
        rate=rate,
        batches=batches,
        start=start,
        clamp=clamp,
        transductive=transductive,
        memory=memory,
        threads=threads,
        store=store,
        offline=offline,
    )
    if out is None:
        put(planned.describe()) if as_json else typer.echo(planned.explain())
        return
    learning.check_place(planned.recipe, out)
    try:
        with Bar(quiet or as_json) as bar:
            found = learning.learn(planned, watch=[bar])
        found.save(out)
    except EutecticError as error:
        raise Failure(error) from error
    if as_json:
        put({"out": str(out), "losses": found.losses, "seconds": found.seconds, "memory": dict(found.memory)})
        return
    peak, planned_peak = format_bytes(found.memory["peak"]), format_bytes(found.memory["planned"])
    typer.echo(
        f"{out}: entropy {found.losses[0]:.4f} to {found.losses[-1]:.4f} in {format_seconds(found.seconds)}; memory "
        f"{peak} of {planned_peak} planned"
    )
