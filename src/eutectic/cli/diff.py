"""`eutectic diff`: how two checkpoints differ."""

import math
from typing import Annotated

import typer

from eutectic.api import runs
from eutectic.cli.options import AsJson, Threads
from eutectic.cli.show import put


def diff(
    first: Annotated[str, typer.Argument(help="A model.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    top: Annotated[int, typer.Option(help="How many of the most changed tensors to show.")] = 20,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Compare two checkpoints tensor by tensor, most changed first. Shows distance, relative distance and cosine."""
    found = runs.diff(first, second, threads=threads)
    if as_json:
        keys = ("name", "distance", "relative", "cosine", "why")
        put([{key: _plain(getattr(each, key)) for key in keys} for each in found])
        return
    compared = [each for each in found if not each.why]
    total = math.sqrt(math.fsum(each.distance**2 for each in compared))
    same = sum(1 for each in compared if each.distance == 0)
    typer.echo(f"{len(compared)} tensors compared, {same} equal; distance {total:.6g} in all")
    if same < len(compared):
        typer.echo(f"{'relative':>10} {'cosine':>10} {'distance':>12}  tensor")
    for each in [each for each in compared if each.distance > 0 or math.isnan(each.distance)][:top]:
        typer.echo(f"{each.relative:10.4g} {each.cosine:10.6f} {each.distance:12.5g}  {each.name}")
    for each in found:
        if each.why:
            typer.echo(f"{each.name}: {each.why}")


def _plain(value: object) -> object:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
