"""`eutectic surgery` as people use it."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

import eutectic
from tests.cli.conftest import Done

Cli = Callable[..., Done]

RECIPE = """\
base: base
models: [{model: code, name: code}, {model: maths, name: maths}]
method: {task_arithmetic: {weight: 0.4}}
calibration: {data: texts.jsonl, batch: 4, max_length: 16}
"""
FEW = ("--steps", "20", "--rank", "2", "--store", "store")


def test_plan_fit_and_apply(cli: Cli, here: Path) -> None:
    """The plan says which passes there are; adapters stand beside the model, which opens and verifies as before."""
    (here / "recipe.yaml").write_text(RECIPE)
    assert cli("merge", "recipe.yaml", "-o", "merged").code == 0
    planned = cli("surgery", "recipe.yaml", "merged", "--plan", *FEW)
    assert planned.code == 0, planned.err
    assert "pass      code: 8 of texts.jsonl through merged and code, block by block" in planned.out
    assert json.loads(cli("surgery", "recipe.yaml", "merged", "--plan", "--json", *FEW).out)["rank"] == 2
    done = cli("surgery", "recipe.yaml", "merged", *FEW)
    assert done.code == 0, done.err
    assert "maths: mean distance from its expert's features" in done.out
    assert "features are stored already" in cli("surgery", "recipe.yaml", "merged", "--plan", *FEW).out
    found = eutectic.Surgery.open("merged")
    assert found(torch.ones(3, 16), "code").shape == (3, 16)
    assert cli("verify", "merged", "--all").code == 0
    assert eutectic.open("merged").source.header.keys() == eutectic.open("base").source.header.keys()
    again = json.loads(cli("surgery", "recipe.yaml", "merged", "--json", *FEW).out)
    assert again["distances"].keys() == {"code", "maths"}
