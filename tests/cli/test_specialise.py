import json
from collections.abc import Callable
from pathlib import Path

import pytest

import eutectic
from tests.cli.conftest import Done

Cli = Callable[..., Done]


@pytest.fixture
def unified(cli: Cli, here: Path) -> Path:
    """An EMR merge of two models."""
    (here / "emr.yaml").write_text("base: base\nmodels: [code, {model: maths, name: sums}]\nmethod: emr\n")
    assert cli("merge", "emr.yaml", "-o", "unified").code == 0
    return here / "unified"


def test_a_task(cli: Cli, unified: Path, here: Path) -> None:
    """By name or by number; a complete folder with its receipt, that verifies."""
    done = cli("specialise", "unified", "--task", "sums", "-o", "one")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("one: ")
    told = json.loads(cli("specialise", "unified", "--task", "2", "-o", "two", "--json").out)
    assert told["out"] == "two"
    assert (here / "one" / "model.safetensors").read_bytes() == (here / "two" / "model.safetensors").read_bytes()
    assert (here / "one" / "config.json").exists()
    assert not (here / "one" / "tasks").exists()
    assert "every byte equal" in cli("verify", "one", "--all").out
    assert cli("diff", "one", "unified").code == 0


def test_inspect_shows_tasks(cli: Cli, unified: Path) -> None:
    """What was made for each task is named, and how much it is."""
    shown = cli("inspect", "unified").out
    assert "task      code: emr.mask, emr.rescaler, " in shown
    assert "task      sums: emr.mask, emr.rescaler, " in shown
    told = json.loads(cli("inspect", "unified", "--json").out)["tasks"]
    assert told["sums"]["kinds"] == ["emr.mask", "emr.rescaler"]
    assert json.loads(cli("inspect", "code", "--json").out)["tasks"] == {}


def test_plan_shows_tasks(cli: Cli, unified: Path) -> None:
    """Before anything is made, the plan lists the files and their sizes."""
    assert "emr.mask, emr.rescaler for each of 2" in cli("plan", "emr.yaml").out
    told = json.loads(cli("plan", "emr.yaml", "--json").out)
    assert told["tasks"] == {
        f"tasks/{path.name}": path.stat().st_size for path in sorted((unified / "tasks").iterdir())
    }


def test_refusals(cli: Cli, unified: Path, here: Path) -> None:
    """No such task, no tasks at all: refused before anything is written, with what to do."""
    done = cli("specialise", "unified", "--task", "sum", "-o", "out")
    assert done.code == 2
    assert "did you mean 'sums'" in done.err
    done = cli("specialise", "code", "--task", "1", "-o", "out")
    assert done.code == 2
    assert "expected an output with parts for several tasks" in done.err
    assert not (here / "out").exists()


def test_a_base_that_moved(cli: Cli, unified: Path, here: Path) -> None:
    """A base that changed is refused; one that moved can be named."""
    (here / "base").rename(here / "old")
    assert cli("specialise", "unified", "--task", "code", "-o", "out").code == 2
    assert cli("specialise", "unified", "--task", "code", "-o", "out", "--base", "old").code == 0
    again = eutectic.verify(here / "out", sample=None)
    assert again.ok
