import tomllib
from importlib.metadata import version
from pathlib import Path

from eutectic.about import VERSION

PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def test_the_version_is_the_packages() -> None:
    """What a receipt records is what was installed."""
    assert tomllib.loads(PROJECT.read_text())["project"]["version"] == VERSION
    assert version("eutectic") == VERSION
