import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Done

Cli = Callable[..., Done]


@pytest.fixture
def out(cli: Cli, here: Path) -> Path:
    """A finished merge."""
    assert cli("merge", "recipe.yaml", "-o", "out").code == 0
    return here / "out"


def spoil(out: Path) -> None:
    """Changes the last byte of the weights."""
    weights = out / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))


def test_a_sound_output(cli: Cli, out: Path) -> None:
    """Every tensor with --all, some of them without."""
    assert cli("verify", "out", "--all") == Done(0, "out: 21 tensors made again, every byte equal\n", "")
    assert cli("verify", "out", "--sample", "3").code == 0


def test_a_changed_byte(cli: Cli, out: Path) -> None:
    """Exit code 1, and the tensor with how many bytes differ."""
    spoil(out)
    done = cli("verify", "out", "--all")
    assert done.code == 1
    assert done.out == ""
    assert "differs from what its recipe makes in 1 bytes" in done.err


def test_as_json(cli: Cli, out: Path) -> None:
    """What was checked, what differs, which inputs changed; the exit code says the same."""
    sound = cli("verify", "out", "--all", "--json")
    assert sound.code == 0
    told = json.loads(sound.out)
    assert (told["ok"], len(told["checked"]), told["differing"], told["changed"]) == (True, 21, {}, [])
    spoil(out)
    spoiled = cli("verify", "out", "--all", "--json")
    assert spoiled.code == 1
    assert json.loads(spoiled.out)["ok"] is False


def test_relative_paths_start_where_it_is_said(
    cli: Cli, out: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another folder the inputs are not found, unless --root names where the recipe was."""
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    lost = cli("verify", out, "--all")
    assert lost.code == 2
    assert "base" in lost.err
    assert cli("verify", out, "--all", "--root", here).code == 0


def test_stages_start_there_too(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The models of a recipe within a recipe are found from the same root."""
    (here / "staged.yaml").write_text(
        "base: base\nmodels:\n  - recipe: {models: [code, maths], method: linear}\nmethod: task_arithmetic\n"
    )
    assert cli("merge", "staged.yaml", "-o", "staged").code == 0
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert cli("verify", here / "staged", "--all", "--root", here).code == 0


def test_an_input_that_changed(cli: Cli, out: Path, here: Path) -> None:
    """It is named: the output may be right and the input another."""
    spoil(here / "code")
    done = cli("verify", "out", "--all")
    assert "code is not the file it was" in done.err


def test_what_eutectic_did_not_write(cli: Cli) -> None:
    """A model without a receipt cannot be checked."""
    done = cli("verify", "base")
    assert (done.code, done.out) == (2, "")
    assert "expected an output of eutectic" in done.err
