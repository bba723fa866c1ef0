"""`eutectic search`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Done

Cli = Callable[..., Done]
RECIPE = "base: base\nmodels: [code, maths]\nmethod: task_arithmetic\noutput: {dtype: float32}\n"
SCORER = """\
import sys
from safetensors.torch import load_file
code, found = (load_file(f"{folder}/model.safetensors") for folder in ("code", sys.argv[1]))
print("scoring", sys.argv[1])
print(-sum(float((code[n].double() - found[n].double()).square().sum()) for n in code))
"""


@pytest.fixture
def scorer(here: Path) -> str:
    """A command that scores by nearness to `code`."""
    (here / "search.yaml").write_text(RECIPE)
    (here / "score.py").write_text(SCORER)
    return f"{sys.executable} score.py"


def test_the_best_weights_are_written(here: Path, scorer: str, cli: Cli) -> None:
    """The mixture nearest to code is code; the recipe in the output says the weights."""
    done = cli("search", "search.yaml", "--score", scorer, "-o", "mix", "--budget", "12", "--penalty", "0", "--json")
    assert done.code == 0
    said = json.loads(done.out)
    assert len(said["trials"]) <= 12
    assert said["score"] == max(each["score"] for each in said["trials"]) > said["trials"][0]["score"]
    assert str(said["weights"][0])[:6] in (here / "mix" / "eutectic_recipe.yaml").read_text()
    again = cli("search", "search.yaml", "--score", scorer, "-o", "mix")
    assert (again.code, "new or empty" in again.err) == (2, True)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("no-such-program", "cannot be run"),
        (f"{sys.executable} -c 'raise SystemExit(3)'", "ended with code 3"),
        (f"{sys.executable} -c 'print(\"good\")'", "expected a number on the last line"),
    ],
)
def test_a_scorer_that_fails(command: str, message: str, scorer: str, cli: Cli, here: Path) -> None:
    """The command is named, and nothing is left."""
    del scorer
    done = cli("search", "search.yaml", "--score", command, "-o", "mix")
    assert (done.code, message in done.err) == (2, True)
    assert not (here / "mix").exists()
