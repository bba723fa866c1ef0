"""`eutectic schema`: the JSON Schema of recipes."""

from eutectic.api import recipes
from eutectic.cli.show import put


def schema() -> None:
    """Print the JSON Schema of recipes. Methods and parameters are in it; editors can check against it."""
    put(recipes.json_schema())
