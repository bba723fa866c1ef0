"""A folder with small models and a recipe, and the command line called in it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from eutectic.cli import main
from tests.docs.pages import write_models

RECIPE = """\
base: base
models:
  - model: code
    weight: 0.6
  - model: maths
method: {ties: {density: 0.5}}
"""


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with models `base`, `code`, `maths`, the adapter `style-lora` and `recipe.yaml`."""
    write_models(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def cli(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Calls `eutectic` with arguments, in this process."""

    def call(*arguments: str | Path) -> Done:
        with pytest.raises(SystemExit) as stop:
            main([str(each) for each in arguments])
        code = stop.value.code
        assert isinstance(code, int)
        return Done(code, *capsys.readouterr())

    return call
