"""Recipes with anchors end to end: starts, what is stored, resuming, threads, and what is refused before any work."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import eutectic
from eutectic.api import statistics
from eutectic.api.refined import refinements
from eutectic.errors import CalibrationError, OverBudget, RecipeError
from eutectic.stats.store import Results
from tests.make.transformer import config, family

QUICK = {"count": 4, "tokens": 3, "steps": 4, "epochs": 2}
ARITHMETIC = {"task_arithmetic": {"weight": 0.4}}


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of three blocks and two experts."""
    folder = tmp_path_factory.mktemp("llamas")
    family(folder, "LlamaForCausalLM", config("llama"), words=False)
    return folder


def recipe(folder: Path, method: Any = ARITHMETIC, rules: Any = (), **anchors: Any) -> eutectic.Recipe:
    """A recipe with anchors."""
    models = [{"model": str(folder / f"expert{k}"), "name": f"e{k}"} for k in range(2)]
    return eutectic.merge(models, base=str(folder / "base"), method=method, rules=rules, anchors={**QUICK, **anchors})


def run(made: eutectic.Recipe, out: Path, store: Path, **how: Any) -> dict[str, torch.Tensor]:
    """Merges and reads the output."""
    eutectic.run(eutectic.plan(made, store=store, **how), out=out)
    return load_file(out / "model.safetensors")


def test_a_rate_of_almost_nothing_gives_the_start(llamas: Path, tmp_path: Path) -> None:
    """Whatever is refined, tensors stay where they start, in blocks and outside: each start is what it says."""
    base = load_file(llamas / "base" / "model.safetensors")
    plain = eutectic.merge([str(llamas / f"expert{k}") for k in range(2)], base=str(llamas / "base"), method=ARITHMETIC)
    eutectic.run(eutectic.plan(plain), out=tmp_path / "plain")
    merged = load_file(tmp_path / "plain" / "model.safetensors")
    for start, want in (("base", base), ("merged", merged), ("models", merged)):
        got = run(recipe(llamas, start=start, rate=1e-12), tmp_path / start, tmp_path / "store")
        assert got.keys() == want.keys()
        for name, tensor in want.items():
            torch.testing.assert_close(got[name], tensor, rtol=0, atol=1e-6, msg=f"{start}: {name}")


def test_blocks_move_towards_what_experts_answer(llamas: Path, tmp_path: Path) -> None:
    """Blocks differ from the start, what is outside does not; anchors are shared by both starts, and drawn."""
    store = tmp_path / "store"
    base = load_file(llamas / "base" / "model.safetensors")
    got = run(recipe(llamas, start="base", rate=1e-3), tmp_path / "out", store)
    moved = {name for name in base if not torch.equal(got[name], base[name])}
    assert moved == {name for name in base if ".layers." in name}
    anchors = [each for each in statistics.stored(store) if each.about["statistic"] == "anchors"]
    assert len(anchors) == 2
    planned = eutectic.plan(recipe(llamas, start="merged"), store=store)
    assert planned.calibration is not None
    assert planned.calibration.finished == (True, True, False)
    assert "stored already" in planned.explain()
    drawn = statistics.draw_spectra(anchors[0].digest[:12], tmp_path / "spectra.svg", store)
    assert len(drawn) == 6
    assert (tmp_path / "spectra.svg").read_text().startswith("<svg")
    with pytest.raises(CalibrationError, match="digest of stored anchors"):
        statistics.draw_spectra("nothing", tmp_path / "spectra.svg", store)


def test_same_bytes_for_threads_and_a_stopped_run_goes_on(
    llamas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread or two; stopped at the second block, what is finished is not done again."""
    made = recipe(llamas)
    one = run(made, tmp_path / "one", tmp_path / "store1", threads=1)
    two = run(made, tmp_path / "two", tmp_path / "store2", threads=2)
    assert all(torch.equal(one[name], two[name]) for name in one)
    write = Results.write
    written: list[str] = []

    def stopping(self: Results, part: str, *rest: Any) -> None:
        if part.endswith(".1") and len(written) == 5:
            raise KeyboardInterrupt
        written.append(part)
        write(self, part, *rest)

    monkeypatch.setattr(Results, "write", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path / "three", tmp_path / "store3", threads=1)
    # Block 0: two sets of anchors and the block; block 1: two sets of anchors.
    assert [part[-2:] for part in written] == [".0", ".0", ".0", ".1", ".1"]
    again: list[str] = []
    monkeypatch.setattr(Results, "write", lambda self, part, *rest: (again.append(part), write(self, part, *rest))[1])
    three = run(made, tmp_path / "three", tmp_path / "store3", threads=1)
    assert [part[-2:] for part in again] == [".1", ".2", ".2", ".2"]
    assert all(torch.equal(one[name], three[name]) for name in one)
    assert eutectic.verify(tmp_path / "one", store=tmp_path / "store1").differing == {}


def test_kept_and_equal_tensors_stay(llamas: Path, tmp_path: Path) -> None:
    """A rule keeps queries; an expert equal to the base in one block has no anchors there, and both leaves it alone."""
    base = load_file(llamas / "base" / "model.safetensors")
    folder = tmp_path / "models"
    shutil.copytree(llamas, folder)
    for k in range(2):
        own = load_file(folder / f"expert{k}" / "model.safetensors")
        own |= {name: base[name] for name in own if ".layers.2." in name}
        save_file(own, folder / f"expert{k}" / "model.safetensors", {"format": "pt"})
    made = recipe(folder, rules=[{"match": "*.q_proj.weight", "keep": "base"}])
    got = run(made, tmp_path / "out", tmp_path / "store")
    for name, tensor in base.items():
        if name.endswith("q_proj.weight") or ".layers.2." in name:
            assert torch.equal(got[name], tensor), name
        elif ".layers." in name:
            assert not torch.equal(got[name], tensor), name


def test_feed_forward_parts_and_a_recipe_as_an_input(llamas: Path, tmp_path: Path) -> None:
    """`unit: mlp` refines gated parts of any merge; a refined recipe is an input of another."""
    inner = recipe(llamas, method="tsv_m", unit="mlp", init="gaussian", sigma=1)
    plain = eutectic.merge([str(llamas / f"expert{k}") for k in range(2)], base=str(llamas / "base"), method="tsv_m")
    eutectic.run(eutectic.plan(plain), out=tmp_path / "plain")
    merged, got = load_file(tmp_path / "plain" / "model.safetensors"), run(inner, tmp_path / "out", tmp_path / "store")
    moved = {name for name in got if not torch.allclose(got[name], merged[name], atol=1e-6)}
    assert moved == {name for name in got if ".mlp." in name}
    outer = eutectic.merge([{"recipe": inner}, str(llamas / "expert0")], method="linear")
    planned = eutectic.plan(outer, store=tmp_path / "store4")
    assert len(list(refinements(planned.inputs))) == 1
    eutectic.run(planned, out=tmp_path / "outer")
    mean = load_file(tmp_path / "outer" / "model.safetensors")
    expert = load_file(llamas / "expert0" / "model.safetensors")
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (got[name] + expert[name]) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base": None, "method": "linear"}, "expected a base"),
        ({"output": {"form": "delta"}}, "output.form model"),
        ({"calibration": {"data": "x.jsonl"}}, "go into two recipes"),
        ({"method": "ties", "anchors": {"start": "models"}}, "task_arithmetic alone"),
        ({"anchors": {"steps": 0}}, "steps"),
        ({"anchors": {"step": 3}}, "steps"),
    ],
)
def test_recipes_that_are_refused(llamas: Path, changes: dict[str, Any], said: str) -> None:
    """Before a model is opened."""
    models = [str(llamas / f"expert{k}") for k in range(2)]
    whole = {"base": str(llamas / "base"), "method": ARITHMETIC, "anchors": QUICK, **changes}
    with pytest.raises(RecipeError, match=said):
        eutectic.plan(eutectic.merge(models, **whole))


def test_models_that_are_refused_before_any_work(llamas: Path, tmp_path: Path) -> None:
    """Too small a budget, a base without a config, weights that do not fit."""
    with pytest.raises(OverBudget, match="solving one block"):
        eutectic.plan(recipe(llamas, count=2**20), store=tmp_path / "store", memory="1 GiB")
    folder = tmp_path / "models"
    shutil.copytree(llamas, folder)
    (folder / "base" / "config.json").unlink()
    with pytest.raises(CalibrationError, match=r"config\.json"):
        eutectic.plan(recipe(folder), store=tmp_path / "store")
    assert statistics.stored(tmp_path / "store") == []
