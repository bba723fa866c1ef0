import json
from collections.abc import Callable

from eutectic.methods import METHODS
from tests.cli.conftest import Done


def test_the_schema_knows_the_methods(cli: Callable[..., Done]) -> None:
    """It is a JSON Schema, and every method is in it."""
    done = cli("schema")
    assert done.code == 0
    schema = json.loads(done.out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert all(f'"{name}"' in done.out for name in METHODS)
