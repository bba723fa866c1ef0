from collections.abc import Callable
from pathlib import Path

import pytest

from eutectic.cli.flags import read_noted, refuse_command, split_flags
from eutectic.errors import RecipeError
from tests.cli.conftest import Done

Cli = Callable[..., Done]
CONFIG = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1, x: 2}\n"


@pytest.mark.parametrize(
    ("given", "ours", "flags"),
    [
        ("merge c.yml out --cuda", "merge c.yml out --device cuda", ""),
        ("merge c.yml -j 4 --num-threads=2", "merge c.yml --threads 4 --threads 2", ""),
        ("merge c.yml --out-path o -I x", "merge c.yml --out o", "-I x"),
        ("merge c.yml --device auto", "merge c.yml --device cpu", ""),
        ("merge c.yml --device=auto --device=cuda", "merge c.yml --device cpu --device cuda", ""),
        ("merge --lazy-unpickle c.yml --random-seed 7 -o x", "merge c.yml -o x", "--lazy-unpickle --random-seed 7"),
        ("merge c.yml --memory 1GiB --quiet", "merge c.yml --memory 1GiB --quiet", ""),
        ("merge c.yml --random-seed", "merge c.yml", "--random-seed "),
        ("convert c.yml --cuda -j 4 --out-path x --random-seed 7", "convert c.yml", "--random-seed 7"),
    ],
)
def test_flags_are_taken_out(given: str, ours: str, flags: str) -> None:
    """Those that are options of ours become them, the others go along."""
    assert split_flags(given.split()) == (ours.split(), flags.split(" ") if flags else [])


def test_notes_are_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error, one a line."""
    (tmp_path / "c.yml").write_text(CONFIG)
    recipe = read_noted(tmp_path / "c.yml", ["--random-seed", "7"])
    assert recipe.seed == 7
    seen = capsys.readouterr()
    assert seen.err == f"warning: {tmp_path / 'c.yml'}:3: linear has no x, so it has no effect\n"
    assert seen.out == ""


def test_commands_of_mergekit_say_what_serves(cli: Cli) -> None:
    """By their full names, or without the prefix."""
    for name in ("mergekit-yaml", "mergekit-moe", "extract-lora", "tokensurgeon", "bakllama"):
        done = cli(name, "x", "--y")
        assert (done.code, done.out) == (2, "")
        assert f"{name} is a command of mergekit's: " in done.err
    refuse_command("mrege")
    with pytest.raises(RecipeError, match="is a command of mergekit's"):
        refuse_command("evolve")


def test_flags_without_its_recipes_are_refused(cli: Cli, tmp_path: Path) -> None:
    """They mean nothing beside a recipe of ours."""
    (tmp_path / "r.yaml").write_text("models: [a, b]\nmethod: linear\n")
    done = cli("plan", str(tmp_path / "r.yaml"), "--allow-crimes")
    assert done.code == 2
    assert "--allow-crimes: is a flag for recipes of mergekit's" in done.err
