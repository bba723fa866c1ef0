import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.cli.conftest import Done

Cli = Callable[..., Done]

pytestmark = pytest.mark.usefixtures("here")


def test_extract_merge_fold_and_inspect(cli: Cli, here: Path) -> None:
    """A fine-tuned model becomes an adapter, is merged with another, and folded back."""
    assert cli("adapter", "extract", "code", "--base", "base", "-o", "code-lora", "--rank", "4").code == 0
    assert cli("adapter", "extract", "maths", "-b", "base", "-o", "maths-lora", "--error", "0.5").code == 0
    config = json.loads((here / "code-lora" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 4)
    seen = cli("adapter", "inspect", "code-lora", "--base", "base", "--json")
    assert {each["rank"] for each in json.loads(seen.out)["updates"]} <= {0, 1, 2, 3, 4}
    assert "norm of all updates" in cli("adapter", "inspect", "style-lora").out
    weights = ("-w", "0.5", "-w", "-0.25")
    done = cli("adapter", "merge", "style-lora", "code-lora", "-o", "both", *weights, "--rank", "1", "--base", "base")
    assert (done.code, "rest: save" in done.err) == (2, True)
    saved = ("--rank", "1", "--base", "base", "--rest", "save")
    done = cli("adapter", "merge", "style-lora", "code-lora", "-o", "both", *weights, *saved)
    assert done.code == 0, done.err
    assert "relative error" in done.out
    assert cli("adapter", "fold", "base", "style-lora", "-o", "folded", "--weight", "0.5").code == 0
    plain, folded = (load_file(here / name / "model.safetensors") for name in ("base", "folded"))
    assert plain.keys() == folded.keys()
    assert any((plain[name] != folded[name]).any() for name in plain)
    assert any((plain[name] == folded[name]).all() for name in plain)


def test_a_recipe_is_merged_into_an_adapter(cli: Cli, here: Path) -> None:
    """Whatever form it says; its rank may be given beside it."""
    (here / "loras.yaml").write_text(
        "models: [{model: style-lora, name: a}, {model: style-lora, name: b}]\nmethod: linear\n"
    )
    done = cli("adapter", "merge", "loras.yaml", "-o", "merged", "--rank", "2", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["truncation"]["relative_error"] < 1
    assert cli("verify", "merged").code == 0
    refused = cli("adapter", "merge", "loras.yaml", "-o", "again", "-w", "1")
    assert (refused.code, "in the recipe" in refused.err) == (2, True)


def test_refusals_have_the_code_of_other_verbs(cli: Cli) -> None:
    """2 before any work, with what to do next."""
    for arguments, said in (
        (["extract", "code", "--base", "base", "-o", "x"], "a rank or an error"),
        (["merge", "style-lora", "nowhere", "-o", "x"], "nowhere"),
        (["merge", "code", "-o", "x", "--rank", "2"], "add `base:`"),
        (["fold", "base", "code", "-o", "base"], "base"),
        (["inspect", "code"], "expected an adapter"),
        (["frob"], "No such command"),
    ):
        done = cli("adapter", *arguments)
        assert done.code == 2, (arguments, done.err)
        assert said in done.err
