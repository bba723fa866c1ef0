"""Which golden cases run: the copies beside this file, or those of `--golden DIR`."""

from pathlib import Path

import pytest

from .cases import Case, families, find


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option that points the runner at another family of cases."""
    parser.addoption("--golden", type=Path, default=None, help="a family of golden cases: case folders and index.json")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives a test that takes `case` every case of every family."""
    if "case" not in metafunc.fixturenames:
        return
    chosen: Path | None = metafunc.config.getoption("golden", default=None)
    copies = [chosen] if chosen else families()
    cases: list[Case] = [case for family in copies for case in find(family)]
    metafunc.parametrize("case", cases, ids=[f"{case.folder.parent.name}/{case.name}" for case in cases])
