import json
from collections.abc import Callable

from eutectic.methods import METHODS
from tests.cli.conftest import Done

Cli = Callable[..., Done]


def test_the_list(cli: Cli) -> None:
    """A line a method: its name and what it does."""
    lines = cli("methods").out.splitlines()
    assert [line.split()[0] for line in lines] == list(METHODS)
    assert all("(n," not in line and len(line.split()) > 3 for line in lines)


def test_one_in_full(cli: Cli) -> None:
    """Paper, needs, and each parameter with kind, default and meaning."""
    page = cli("methods", "ties").out
    for part in ("arXiv:2306.01708", "a base", "density: ", "default 0.2", "Departs:"):
        assert part in page


def test_as_json(cli: Cli) -> None:
    """All or one, as data."""
    every = json.loads(cli("methods", "--json").out)
    assert [each["name"] for each in every] == list(METHODS)
    assert json.loads(cli("methods", "slerp", "--json").out) in every


def test_an_unknown_name(cli: Cli) -> None:
    """The nearest is offered."""
    done = cli("methods", "slrep")
    assert (done.code, done.out) == (2, "")
    assert "did you mean 'slerp'?" in done.err
