"""A file of mergekit's through the command line: flags, warnings, output, and what comes after."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import eutectic
from eutectic.cli import main

from .tiny import write_model

Run = Callable[..., tuple[int, str, str]]
CONFIG = """\
merge_method: dare_ties
base_model: base
models:
  - model: one
    parameters: {weight: [0.2, 0.8], density: 0.5}
  - model: two
    parameters: {weight: 0.5, densty: 0.5}
dtype: bfloat16
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in a folder with three models and the file."""
    for seed, name in enumerate(("base", "one", "two")):
        write_model(tmp_path / name, seed)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "c.yml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        seen = capsys.readouterr()
        return int(stop.value.code or 0), seen.out, seen.err

    return call


def test_a_script_of_mergekits(run: Run) -> None:
    """The command, its two places and its flags; what surprises is said; the output stands for itself."""
    flags = ["--random-seed", "7", "--lazy-unpickle", "--allow-crimes", "--out-shard-size", "20K", "-v", "--quiet"]
    code, _, said = run("merge", "configs/c.yml", "out", *flags)
    assert code == 0
    l1 = "rescale restores each tensor's sum of magnitudes, where the paper divides by the kept share"
    assert said.splitlines() == [
        "warning: configs/c.yml:1: dare_ties: a vote of exactly 0 elects plus",
        f"warning: configs/c.yml:1: dare_ties: {l1}",
        "warning: configs/c.yml:5: lm_head and the final norm take the first value of the gradient of weight",
        "warning: configs/c.yml:7: dare_ties has no densty, so it has no effect; did you mean 'density'?",
        "warning: without effect here: --allow-crimes, -v",
    ]
    receipt = json.loads(Path("out/eutectic_receipt.json").read_text())
    assert set(said.replace("warning: ", "").splitlines()) <= set(receipt["notes"])
    assert f"{Path('base')}: rounded to bfloat16 before it is merged" in receipt["notes"]
    assert receipt["recipe"]["seed"] == 7
    assert len(list(Path("out").glob("*.safetensors"))) > 1
    assert json.loads(Path("out/config.json").read_text())["num_hidden_layers"] == 4
    assert eutectic.read("out/eutectic_recipe.yaml").to_dict() == receipt["recipe"]


def test_what_comes_after(run: Run) -> None:
    """The same command finds its output done; the output verifies; a plan names the traps."""
    assert run("merge", "configs/c.yml", "--out", "out", "-q")[0] == 0
    before = Path("out/eutectic_receipt.json").read_bytes()
    assert run("merge", "configs/c.yml", "out", "-q")[0] == 0
    assert Path("out/eutectic_receipt.json").read_bytes() == before
    code, out, _ = run("verify", "out", "--all")
    assert (code, "every byte equal" in out) == (0, True)
    code, out, _ = run("plan", "configs/c.yml")
    assert code == 0
    assert "note      configs/c.yml:5: lm_head and the final norm take the first value" in out


def test_outputs_are_named_once(run: Run) -> None:
    """By place or by option."""
    assert "expected one output folder, found a and b" in run("merge", "configs/c.yml", "a", "-o", "b")[2]
    assert "expected an output folder, found none" in run("merge", "configs/c.yml")[2]


def test_gradients_by_hand(run: Run) -> None:
    """Weight [0, 1] of one, 1 of two, four blocks: one has 0, 1/4, 2/5, 1/2 of the average, and 0 in the head."""
    Path("g.yml").write_text(
        "merge_method: linear\nmodels: [{model: one, parameters: {weight: [0, 1]}}, {model: two}]\n"
        "parameters: {weight: 1}\n"
    )
    eutectic.run(eutectic.plan("g.yml"), "g")
    one, two, got = (load_file(f"{name}/model.safetensors") for name in ("one", "two", "g"))
    shares = {f"model.layers.{block}.mlp.up_proj.weight": share for block, share in enumerate((0, 1 / 4, 2 / 5, 1 / 2))}
    for name, share in {**shares, "lm_head.weight": 0, "model.norm.weight": 0, "model.embed_tokens.weight": 0}.items():
        torch.testing.assert_close(got[name], share * one[name] + (1 - share) * two[name], rtol=1e-5, atol=1e-6)
    mended, _ = eutectic.convert("g.yml")
    eutectic.run(eutectic.plan(mended), "m")
    head = load_file("m/model.safetensors")["lm_head.weight"]
    torch.testing.assert_close(head, (one["lm_head.weight"] + two["lm_head.weight"]) / 2, rtol=1e-5, atol=1e-6)


def test_the_last_slices_other_sources_by_hand(run: Run) -> None:
    """One source first, two last: the head is the first of the last slice's; mended, the mean of both."""
    Path("s.yml").write_text(
        "merge_method: linear\nparameters: {weight: 1}\nslices:\n- sources: [{model: one, layer_range: [0, 2]}]\n"
        "- sources: [{model: two, layer_range: [2, 4]}, {model: one, layer_range: [1, 3]}]\n"
    )
    eutectic.run(eutectic.plan("s.yml"), "s")
    one, two, got = (load_file(f"{name}/model.safetensors") for name in ("one", "two", "s"))
    torch.testing.assert_close(got["lm_head.weight"], two["lm_head.weight"])
    torch.testing.assert_close(got["model.embed_tokens.weight"], one["model.embed_tokens.weight"])
    name = "model.layers.{}.self_attn.q_proj.weight"
    torch.testing.assert_close(got[name.format(3)], (two[name.format(3)] + one[name.format(2)]) / 2)
    mended, _ = eutectic.convert("s.yml")
    eutectic.run(eutectic.plan(mended), "m")
    head = load_file("m/model.safetensors")["lm_head.weight"]
    torch.testing.assert_close(head, (two["lm_head.weight"] + one["lm_head.weight"]) / 2)


def test_files_as_models(run: Run) -> None:
    """mergekit-pytorch's recipes name files."""
    save_file({"w": torch.tensor([1.0, 2.0])}, "a.safetensors")
    save_file({"w": torch.tensor([3.0, 6.0])}, "b.safetensors")
    Path("f.yml").write_text(
        "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a.safetensors}, {model: b.safetensors}]\n"
    )
    eutectic.run(eutectic.plan("f.yml"), "f")
    assert load_file("f/model.safetensors")["w"].tolist() == [2.0, 4.0]


def test_stages_by_hand(run: Run) -> None:
    """The mean of one and two, then the mean of that and the base: 1/4, 1/4, 1/2."""
    Path("n.yml").write_text(
        "name: both\nmerge_method: linear\nparameters: {weight: 1}\nmodels: [{model: one}, {model: two}]\n---\n"
        "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: both}, {model: base}]\n"
    )
    assert run("merge", "n.yml", "--out-path", "n", "-I", "between", "-q")[0] == 0
    one, two, base, got = (load_file(f"{name}/model.safetensors") for name in ("one", "two", "base", "n"))
    for name, value in got.items():
        torch.testing.assert_close(value, one[name] / 4 + two[name] / 4 + base[name] / 2, rtol=1e-5, atol=1e-6)
    assert not Path("between").exists()
