"""`eutectic methods`: the zoo, printed from its declarations."""

from typing import Annotated

import typer

from eutectic import api
from eutectic.cli.options import AsJson
from eutectic.cli.show import put


def methods(
    name: Annotated[str | None, typer.Argument(help="One method, in full.")] = None, as_json: AsJson = False
) -> None:
    """List the methods, or show one with its parameters, needs and source."""
    if as_json:
        found = [api.describe_method(each) for each in ([name] if name else api.METHODS)]
        put(found[0] if name else found)
    elif name is None:
        width = max(map(len, api.METHODS))
        for each in api.METHODS.values():
            typer.echo(f"{each.name:{width}}  {each.doc.splitlines()[0]}")
    else:
        typer.echo(api.explain_method(name))
