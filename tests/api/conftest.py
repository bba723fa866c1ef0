"""A working directory with small models."""

from pathlib import Path

import pytest

from tests.docs.pages import write_models


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the models `base`, `code`, `maths` and the adapter `style-lora`."""
    write_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path
