"""`eutectic methods`: the zoo, printed from its declarations."""

from typing import Annotated

import typer

from eutectic.api import recipes
from eutectic.cli.options import AsJson
from eutectic.cli.show import put


def methods(
    name: Annotated[str | None, typer.Argument(help="One method, in full.")] = None, as_json: AsJson = False
) -> None:
    """List the methods, or show one in full. That is its parameters, needs and source."""
    if as_json:
        found = [recipes.describe_method(each) for each in ([name] if name else recipes.METHODS)]
        put(found[0] if name else found)
    elif name is None:
        width = max(map(len, recipes.METHODS))
        for each in recipes.METHODS:
            typer.echo(f"{each:{width}}  {recipes.describe_method(each)['summary']}")
    else:
        typer.echo(recipes.explain_method(name))
