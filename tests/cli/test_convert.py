from collections.abc import Callable
from pathlib import Path

import eutectic
from tests.cli.conftest import Done

Cli = Callable[..., Done]
CONFIG = (
    "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: [0, 1]}}\n- model: b\nparameters: {weight: 1}\n"
)


def test_the_mended_recipe_is_printed(cli: Cli, tmp_path: Path) -> None:
    """The recipe on standard output, what changed on standard error."""
    config = tmp_path / "c.yml"
    config.write_text(CONFIG)
    done = cli("convert", str(config))
    assert done.code == 0
    assert eutectic.read(done.out).rules == ()
    assert done.err == f"changed: {config}:3: they take the last value of weight\n"


def test_traps_may_be_kept(cli: Cli, tmp_path: Path) -> None:
    """Then the recipe is the one that a merge carries out, and says what surprises in it."""
    config = tmp_path / "c.yml"
    config.write_text(CONFIG)
    done = cli("convert", str(config), "--keep-traps", "-o", str(tmp_path / "r.yaml"))
    assert (done.code, done.out) == (0, "")
    assert eutectic.read(tmp_path / "r.yaml").to_dict() == eutectic.read(config).to_dict()
    said = "lm_head and the final norm take the first value of the gradient of weight"
    assert done.err == f"kept: {config}:3: {said}\n"


def test_refusals(cli: Cli, tmp_path: Path) -> None:
    """A recipe of ours, and a file that is there."""
    ours, config = tmp_path / "r.yaml", tmp_path / "c.yml"
    ours.write_text("models: [a, b]\nmethod: linear\n")
    config.write_text(CONFIG)
    assert "expected a recipe of mergekit's" in cli("convert", str(ours)).err
    done = cli("convert", str(config), "-o", str(ours))
    assert done.code == 2
    assert "cannot be written" in done.err
    assert ours.read_text().startswith("models")
