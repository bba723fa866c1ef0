"""Options of the comparison with mergekit."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds how many recipes to draw, and from where."""
    parser.addoption("--drawn", type=int, default=60, help="how many mergekit recipes to draw")
    parser.addoption("--drawn-from", type=int, default=0, help="the first one's seed")
