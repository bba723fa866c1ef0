"""`eutectic learn` as people use it: the plan alone, the recipe, again, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Done

Cli = Callable[..., Done]

RECIPE = """\
base: base
models: [{model: code, name: code}, {model: maths, name: maths}]
method: task_arithmetic
calibration: {data: texts.jsonl, batch: 4, max_length: 16}
"""
FEW = ("--steps", "2", "--store", "store", "--memory", "200MiB")


def test_plan_learn_merge(cli: Cli, here: Path) -> None:
    """Without --out the plan; with it a recipe that merges without data; a second call has nothing left to do."""
    (here / "recipe.yaml").write_text(RECIPE)
    planned = cli("learn", "recipe.yaml", *FEW)
    assert planned.code == 0, planned.err
    assert "learns    21 x 2 coefficients by tensor, of 21 tensors" in planned.out
    assert "steps     2, 0 of them done; each shows 2 x 2 batches of 4" in planned.out
    assert json.loads(cli("learn", "recipe.yaml", *FEW, "--json").out)["steps"] == 2
    done = cli("learn", "recipe.yaml", "-o", "learned.yaml", *FEW)
    assert done.code == 0, done.err
    assert done.out.startswith("learned.yaml: entropy ")
    assert (here / "learned.yaml").read_text().startswith("# learned by AdaMerging")
    again = json.loads(cli("learn", "recipe.yaml", "-o", "again.yaml", *FEW, "--json").out)
    assert len(again["losses"]) == 2
    assert (here / "again.yaml").read_text() == (here / "learned.yaml").read_text()
    (here / "texts.jsonl").unlink()
    assert cli("merge", "learned.yaml", "-o", "out").code == 0
    assert "coefficients by tensor, 2 steps of the merged model" in cli("stats", "--store", "store").out


def test_by_model_the_numbers_stand_at_the_models(cli: Cli, here: Path) -> None:
    """And no rules are needed."""
    (here / "recipe.yaml").write_text(RECIPE)
    assert cli("learn", "recipe.yaml", "-o", "learned.yaml", "--by", "model", "--start", "0.5", *FEW).code == 0
    text = (here / "learned.yaml").read_text()
    assert text.count("weight: 0.") == 2
    assert "rules" not in text


def test_refusals_come_before_any_work(cli: Cli, here: Path) -> None:
    """With exit code 2: a chain of another method, test data, a place from which paths lead nowhere."""
    assert cli("learn", "recipe.yaml").code == 2  # TIES
    (here / "test.jsonl").write_text((here / "texts.jsonl").read_text())
    (here / "recipe.yaml").write_text(RECIPE.replace("texts", "test"))
    refused = cli("learn", "recipe.yaml", *FEW)
    assert refused.code == 2
    assert "ask for --transductive" in refused.err
    assert cli("learn", "recipe.yaml", "--transductive", *FEW).code == 0
    (here / "away").mkdir()
    refused = cli("learn", "recipe.yaml", "--transductive", "-o", "away/learned.yaml", *FEW)
    assert refused.code == 2
    assert "write the learned recipe there" in refused.err
