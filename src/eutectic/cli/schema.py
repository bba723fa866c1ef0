"""`eutectic schema`: the JSON Schema of recipes."""

from eutectic import api
from eutectic.cli.show import put


def schema() -> None:
    """Print the JSON Schema of recipes, methods and parameters included; editors can check against it."""
    put(api.json_schema())
