"""Models written once for all tests of the engine."""

from pathlib import Path

import pytest

from tests.engine.family import write_family


@pytest.fixture(scope="session")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family with a tensor large enough for sampled quantiles."""
    return write_family(tmp_path_factory.mktemp("big"), big=True)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family with odd relatives."""
    return write_family(tmp_path_factory.mktemp("small"), big=False)
