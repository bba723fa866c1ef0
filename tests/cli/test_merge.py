import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Done

Cli = Callable[..., Done]


def digest(folder: Path) -> str:
    """The weights' digest."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_a_merge(cli: Cli, here: Path) -> None:
    """A complete folder, one line on standard output, and no progress where there is no terminal."""
    done = cli("merge", "recipe.yaml", "-o", "out")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("out: ")
    assert done.out.count("\n") == 1
    names = {path.name for path in (here / "out").iterdir()}
    assert names >= {"model.safetensors", "config.json", "README.md", "eutectic_recipe.yaml", "eutectic_receipt.json"}
    assert not [path for path in here.iterdir() if path.name.startswith(".out")]


def test_as_json(cli: Cli, here: Path) -> None:
    """--json prints what a script wants, and nothing else."""
    told = json.loads(cli("merge", "recipe.yaml", "-o", "out", "--json").out)
    receipt = json.loads((here / "out" / "eutectic_receipt.json").read_text())
    assert told["out"] == "out"
    assert told["job"] == receipt["job"]
    assert told["memory"]["planned"] == receipt["memory"]["planned"]


def test_settings_change_no_byte(cli: Cli, here: Path) -> None:
    """Threads and memory are the user's; the bytes are the recipe's."""
    assert cli("merge", "recipe.yaml", "-o", "one", "--threads", "1", "--memory", "64MiB", "--quiet").code == 0
    assert cli("merge", "recipe.yaml", "-o", "two", "--threads", "3").code == 0
    assert digest(here / "one") == digest(here / "two")
    assert json.loads((here / "one" / "eutectic_receipt.json").read_text())["threads"] == 1


def test_a_finished_merge_is_left_as_it_is(cli: Cli, here: Path) -> None:
    """The same command again succeeds and writes nothing."""
    cli("merge", "recipe.yaml", "-o", "out")
    before = {path: path.stat().st_mtime_ns for path in (here / "out").iterdir()}
    assert cli("merge", "recipe.yaml", "-o", "out").code == 0
    assert {path: path.stat().st_mtime_ns for path in (here / "out").iterdir()} == before


def test_a_taken_output_is_refused(cli: Cli, here: Path) -> None:
    """Another job's output, a folder with files, a file: refused, and nothing in them changes."""
    cli("merge", "recipe.yaml", "-o", "out")
    (here / "other.yaml").write_text("models: [code, maths]\nmethod: linear\n")
    (here / "full").mkdir()
    (here / "full" / "thesis.tex").write_text("x")
    before = digest(here / "out")
    for taken in ("out", "full", "recipe.yaml"):
        done = cli("merge", "other.yaml", "-o", taken)
        assert (done.code, done.out) == (2, "")
        assert "expected a new or empty folder" in done.err
    assert digest(here / "out") == before
    assert [path.name for path in (here / "full").iterdir()] == ["thesis.tex"]


def test_unfinished_work_of_another_job(cli: Cli, here: Path) -> None:
    """It is not thrown away unless --fresh says so."""
    staging = here / ".out.eutectic"
    staging.mkdir()
    source = here / "other"
    cli("merge", "recipe.yaml", "-o", source)
    (here / "other.yaml").write_text("models: [code, maths]\nmethod: linear\n")
    # A run that died at once leaves a journal with its job.
    from eutectic.engine.journal import Journal

    journal = Journal(staging / "journal", "0" * 64)
    journal.begin()
    journal.close()
    refused = cli("merge", "other.yaml", "-o", "out")
    assert refused.code in {1, 2}
    assert "--fresh" in refused.err
    assert not (here / "out").exists()
    assert cli("merge", "other.yaml", "-o", "out", "--fresh").code == 0
    assert (here / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("options", [("--memory", "1KiB"), ("--threads", "0"), ("--device", "abacus")])
def test_refused_before_anything_is_written(cli: Cli, here: Path, options: tuple[str, str]) -> None:
    """Settings that cannot be leave no output and no staging folder."""
    before = sorted(here.iterdir())
    done = cli("merge", "recipe.yaml", "-o", "out", *options)
    assert (done.code, done.out) == (2, "")
    assert sorted(here.iterdir()) == before


def test_a_broken_input_is_refused_before_anything_is_written(cli: Cli, here: Path) -> None:
    """A truncated file is found from its header: exit code 2, with its path."""
    weights = here / "code" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2])
    before = sorted(here.iterdir())
    done = cli("merge", "recipe.yaml", "-o", "out")
    assert done.code == 2
    assert "code/model.safetensors" in done.err
    assert sorted(here.iterdir()) == before


def test_failing_while_running_is_another_code(cli: Cli, here: Path) -> None:
    """A value that is not finite is met while merging: exit code 1, its tensor named, no output."""
    weights = here / "code" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-2:] = b"\xc0\x7f"  # bfloat16's NaN
    weights.write_bytes(bytes(data))
    done = cli("merge", "recipe.yaml", "-o", "out")
    assert done.code == 1
    assert "weight" in done.err
    assert "Traceback" not in done.err
    assert not (here / "out").exists()


def test_a_folder_that_cannot_be_made(cli: Cli) -> None:
    """An output below a file cannot be: an error, no traceback."""
    done = cli("merge", "recipe.yaml", "-o", "recipe.yaml/out")
    assert done.code in {1, 2}
    assert done.err.startswith("error: ")
