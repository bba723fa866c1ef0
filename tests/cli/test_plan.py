import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Done

Cli = Callable[..., Done]


def test_the_plan_is_printed_and_nothing_written(cli: Cli, here: Path) -> None:
    """Bytes, memory and fates; the folder is as it was."""
    before = sorted(here.iterdir())
    done = cli("plan", "recipe.yaml", "--memory", "1GiB", "--threads", "2")
    assert done.code == 0
    assert "21" in done.out
    assert "merged" in done.out
    assert "lm_head.weight" not in done.out
    assert sorted(here.iterdir()) == before


def test_every_tensor(cli: Cli) -> None:
    """--tensors adds each one's fate."""
    assert "lm_head.weight" in cli("plan", "recipe.yaml", "--tensors").out


def test_as_json(cli: Cli) -> None:
    """--json prints the plan as data."""
    found = json.loads(cli("plan", "recipe.yaml", "--json", "--memory", "1GiB").out)
    assert isinstance(found, dict)
    assert "lm_head.weight" in json.dumps(found)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--memory", "1KiB"), "least"),
        (("--memory", "lots"), "4 GiB"),
        (("--memory", "9" * 400), "2**63"),
        (("--threads", "0"), "at least one thread"),
        (("--device", "abacus"), "abacus"),
    ],
)
def test_impossible_settings(cli: Cli, options: tuple[str, str], reason: str) -> None:
    """Too small a budget says the least that works; nonsense says what was expected."""
    done = cli("plan", "recipe.yaml", *options)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert reason in done.err


def test_every_mistake_at_once(cli: Cli, here: Path) -> None:
    """A recipe with three mistakes: three lines, each with file, line and the nearest name."""
    (here / "wrong.yaml").write_text("base: base\nmodels: [code]\nmethod: {ties: {densty: 1}}\nsede: 1\nextr: drop\n")
    lines = cli("plan", "wrong.yaml").err.splitlines()
    for line, at, near in zip(lines, ("3", "4", "5"), ("density", "seed", "extra"), strict=True):
        assert f"wrong.yaml:{at}: " in line
        assert f"did you mean '{near}'?" in line


def test_models_that_do_not_fit(cli: Cli, here: Path) -> None:
    """A tensor that one model lacks is named, and the policies that would pass."""
    (here / "bad.yaml").write_text("models: [code, style-lora]\nmethod: linear\n")
    done = cli("plan", "bad.yaml")
    assert (done.code, done.out) == (2, "")
    assert "style-lora" in done.err
