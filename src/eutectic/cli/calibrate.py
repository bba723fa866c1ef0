"""`eutectic calibrate`: take the statistics of data that a recipe's methods ask for, ahead of the merge."""

import typer

from eutectic.api import runs
from eutectic.cli.bar import Bar
from eutectic.cli.options import AsJson, Memory, Offline, RecipeFile, Store
from eutectic.cli.show import Failure, put
from eutectic.errors import EutecticError


def calibrate(
    recipe: RecipeFile,
    memory: Memory = None,
    store: Store = None,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Take the statistics of data that a recipe asks for, ahead of the merge.

    A merge does so by itself. Run the same command again to go on after a stop.
    """
    planned = runs.plan(recipe, memory=memory, offline=offline, store=store)
    if planned.calibration is None:
        typer.echo("the recipe's methods look at no data; nothing to calibrate")
        return
    try:
        with Bar(as_json) as bar:
            runs.calibrate(planned, watch=[bar])
    except EutecticError as error:
        raise Failure(error) from error
    if as_json:
        put({"store": str(planned.calibration.store), "results": list(planned.calibration.digests)})
        return
    new = planned.calibration.finished.count(False)
    typer.echo(f"{planned.calibration.store}: {len(planned.calibration.digests)} results, {new} of them new")
