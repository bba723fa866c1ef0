import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.make.transformer import config, family, texts


def call(here: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs the command line in a folder."""
    command = [sys.executable, "-c", "from eutectic.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=here, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experts, data and a recipe."""
    here = tmp_path_factory.mktemp("calibrate")
    family(here, "BertModel", config("bert"))
    texts(here / "data.jsonl", 4)
    text = "models: [{model: expert0, name: a}, {model: expert1, name: b}]\nmethod: regmean\n"
    (here / "recipe.yaml").write_text(f"{text}calibration: {{data: data.jsonl}}\n")
    (here / "plain.yaml").write_text("models: [expert0, expert1]\nmethod: linear\n")
    return here


def test_calibrate_list_delete(folder: Path) -> None:
    """The verbs one after another, as people use them."""
    done = call(folder, "calibrate", "recipe.yaml", "--store", "store")
    assert done.returncode == 0, done.stderr
    assert "2 results, 2 of them new" in done.stdout
    again = json.loads(call(folder, "calibrate", "recipe.yaml", "--store", "store", "--json").stdout)
    assert len(again["results"]) == 2
    listed = call(folder, "stats", "--store", "store").stdout
    assert listed.count("InputGram") == 2
    assert "4 samples of data.jsonl" in listed
    plan = call(folder, "plan", "recipe.yaml", "--store", "store").stdout
    assert "stored already" in plan
    entries = json.loads(call(folder, "stats", "--store", "store", "--json").stdout)
    gone = call(folder, "stats", "--store", "store", "--delete", entries[0]["digest"][:10])
    assert "deleted 1 results" in gone.stdout
    assert "deleted 1 results" in call(folder, "stats", "--store", "store", "--delete-all").stdout
    assert call(folder, "stats", "--store", "store").stdout.startswith("0 results")


def test_recipes_without_data(folder: Path) -> None:
    """There is nothing to do, which is said; a digest that is none is refused."""
    assert "nothing to calibrate" in call(folder, "calibrate", "plain.yaml").stdout
    refused = call(folder, "stats", "--store", "store", "--delete", "zzz")
    assert refused.returncode == 2
    assert "found none" in refused.stderr
