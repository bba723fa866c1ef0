"""The demo of `make demo`: its data are whole, its scoring is right, and it shows what the README says."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = Path(__file__).parent.parent.parent / "examples" / "text"
TASKS = ("supersense", "glosspos", "debsection", "debrole", "langid", "spam")


@pytest.mark.parametrize("task", [*TASKS, "fortunes"])
def test_data_are_whole(task: str) -> None:
    """A task has a description for each class, 300 rows, and labels within its classes."""
    content = json.loads(gzip.decompress((TEXT / "data" / f"{task}.json.gz").read_bytes()))
    assert set(content) == {"labels", "prompts", "test"}
    assert len(content["prompts"]) == len(content["labels"]) == len(set(content["labels"]))
    assert len(content["test"]) == 300
    assert all(text.strip() and 0 <= label < len(content["labels"]) for text, label in content["test"])


@pytest.mark.parametrize("task", TASKS)
def test_adapters_are_whole(task: str) -> None:
    """Each expert has weights, and the rank and scale that the README states."""
    config = json.loads((TEXT / "adapters" / task / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_dora"], config["use_rslora"]) == (16, 32, False, False)
    assert (TEXT / "adapters" / task / "adapter_model.safetensors").stat().st_size > 1_000_000


@pytest.mark.slow
def test_adapters_weighed_by_token_help() -> None:
    """On 30 rows a task, the model with six experts is well above the base's 46 %, and the unseen task has a score."""
    command = [sys.executable, TEXT / "routed.py", "--rows", "30"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines()[1:]}
    assert said.keys() == {*TASKS, "fortunes", "mean"}
    assert said["mean"] > 65
    assert said["fortunes"] > 0


@pytest.mark.slow
def test_demo_shows_that_merging_helps() -> None:
    """On 60 rows a task, every merge stands between the base and the experts, and the unseen task has a score."""
    done = subprocess.run(
        [sys.executable, TEXT / "demo.py", "--rows", "60"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("Accuracy in %")[1].splitlines()
    cells = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines if line[:1] in {"│", "┃"}]
    head, rows = cells[0], {row[0]: row[1:] for row in cells[1:]}
    means = dict(zip(head[1:], map(float, rows["mean"]), strict=True))
    merges = means.keys() - {"base", "own expert"}
    assert len(merges) == 6
    assert all(means["base"] + 10 < means[merge] < means["own expert"] for merge in merges)
    assert all(float(cell) > 0 for cell in rows["fortunes (unseen)"][:-1])
