"""Adapters of rotations merged to one: the formula, as PEFT reads it, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import OFTConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import eutectic
from eutectic.errors import MismatchError, OverBudget, RecipeError
from eutectic.methods.orthomerge import join
from tests.adapters.test_lora import llama
from tests.make.adapters import train

ADAPTER = {"form": "adapter", "dtype": "float32"}
OPTIONS: dict[str, Any] = {"target_modules": ["q_proj", "down_proj", "embed_tokens"], "oft_block_size": 4}


def pair(folder: Path, **changes: Any) -> tuple[Path, list[Path]]:
    """A base and two OFT adapters of it, trained apart."""
    made = []
    for at in range(2):
        train(llama(), OFTConfig(**{**OPTIONS, **changes}), folder / f"run{at}", seed=at)
        made.append(folder / f"run{at}" / "adapter")
    return folder / "run0" / "base", made


def merged(base: Path, models: list[Any], out: Path, **more: Any) -> dict[str, torch.Tensor]:
    """Merges to an adapter and reads it."""
    recipe = {"base": str(base), "models": models, "method": "orthomerge", "output": ADAPTER} | more
    eutectic.run(eutectic.plan(recipe), out=out)
    return load_file(out / "adapter_model.safetensors")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # PEFT asks for it
@pytest.mark.parametrize("changes", [{}, {"use_cayley_neumann": False}, {"block_share": True}])
def test_generators_are_joined_and_peft_reads_them(changes: dict[str, Any], tmp_path: Path) -> None:
    """Of each module the sum has the mean length; PEFT's model with the adapter is ours of base + adapter."""
    base, adapters = pair(tmp_path, **changes)
    got = merged(base, [str(path) for path in adapters], tmp_path / "out")
    stored = [load_file(path / "adapter_model.safetensors") for path in adapters]
    assert got.keys() == {name for name in stored[0] if "oft_" in name}  # PEFT keeps a copy of the embedding besides
    for name, value in got.items():
        torch.testing.assert_close(value.double(), join([each[name].double() for each in stored]), rtol=1e-6, atol=1e-7)
    whole = {"base": str(base), "models": [str(tmp_path / "out")], "method": "task_arithmetic"}
    eutectic.run(eutectic.plan(whole), out=tmp_path / "model")
    ours = load_file(tmp_path / "model" / "model.safetensors")
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "out").merge_and_unload()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours[name], value, rtol=2e-5, atol=2e-6)


def test_one_and_equal_adapters_stay(tmp_path: Path) -> None:
    """Alone, or merged with itself, an adapter is itself; a weight scales what it turns by."""
    base, adapters = pair(tmp_path)
    own = load_file(adapters[0] / "adapter_model.safetensors")
    named = [{"model": str(adapters[0]), "name": name} for name in "ab"]
    for at, models in enumerate((named[:1], named)):
        for name, value in merged(base, models, tmp_path / f"out{at}").items():
            torch.testing.assert_close(value, own[name])
    half = merged(base, [{"model": str(adapters[0]), "weight": 0.5}], tmp_path / "half")
    for name, value in half.items():
        torch.testing.assert_close(value, own[name] / 2)


def test_constrained_generators_are_cut_first(tmp_path: Path) -> None:
    """The merged adapter is not cut again: its configuration says so."""
    base, adapters = pair(tmp_path, coft=True, eps=0.05)
    got = merged(base, [str(path) for path in adapters], tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["coft"] is False
    for name, value in got.items():
        stored = [load_file(path / "adapter_model.safetensors")[name].double() for path in adapters]
        most = 0.05 / len(value) ** 0.5 / 2**0.5  # of the upper triangle, which has half of the squares
        cut = [each * (most / each.norm(dim=1, keepdim=True)).clamp(max=1.0) for each in stored]
        assert any(bool((each.norm(dim=1) > most).any()) for each in stored)
        torch.testing.assert_close(value.double(), join(cut), rtol=1e-5, atol=1e-8)


def test_modules_that_some_leave_alone_and_rules(tmp_path: Path) -> None:
    """Who does not turn a module has no length there; a kept tensor is the base's, or one model's."""
    base, adapters = pair(tmp_path)
    weights = load_file(adapters[1] / "adapter_model.safetensors")
    gone = next(name for name in weights if "down_proj" in name)
    save_file(
        {name: value for name, value in weights.items() if name != gone}, adapters[1] / "adapter_model.safetensors"
    )
    own = load_file(adapters[0] / "adapter_model.safetensors")
    models = [{"model": str(path), "name": f"m{at}"} for at, path in enumerate(adapters)]
    rules = [{"match": "*.1.self_attn.q_proj.weight", "keep": "m1"}, {"match": "*embed*", "keep": "base"}]
    got = merged(base, models, tmp_path / "out", rules=rules)
    torch.testing.assert_close(got[gone], own[gone] / 2)
    kept = next(name for name in got if "layers.1.self_attn.q_proj" in name)
    torch.testing.assert_close(got[kept], weights[kept])
    assert not any("embed" in name for name in got)


def test_a_copy_of_the_base_is_checked(tmp_path: Path) -> None:
    """PEFT stores the embedding beside its rotations: one that was changed is refused, or left out when asked for."""
    base, adapters = pair(tmp_path)
    models = [str(path) for path in adapters]
    plain = merged(base, models, tmp_path / "plain")
    file = adapters[1] / "adapter_model.safetensors"
    stored = load_file(file)
    (name,) = (name for name in stored if "base_layer" in name)
    stored[name][3, 1] += 0.5
    save_file(stored, file)
    with pytest.raises(MismatchError, match=f"element {3 * stored[name].shape[1] + 1} is the first"):
        merged(base, models, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    output = ADAPTER | {"rest": "drop"}
    recipe = {"base": str(base), "models": models, "method": "orthomerge", "output": output}
    planned = eutectic.plan(recipe)
    assert [each.name for each in planned.dropped] == [name]
    for key, value in merged(base, models, tmp_path / "dropped", output=output).items():
        assert torch.equal(value, plain[key])
    kept = [{"model": path, "name": f"m{at}"} for at, path in enumerate(models)]
    merged(base, kept, tmp_path / "kept", rules=[{"match": "*embed*", "keep": "m0"}])  # the changed one is not read


def test_what_factors_cannot_hold_is_left_out_when_asked_for(tmp_path: Path) -> None:
    """A trained head beside the rotations: `rest: drop` leaves it out, and the plan says so."""
    base, adapters = pair(tmp_path, modules_to_save=["lm_head"])
    recipe = {"base": str(base), "models": [str(path) for path in adapters], "method": "orthomerge"}
    planned = eutectic.plan(recipe | {"output": ADAPTER | {"rest": "drop"}})
    assert any("lm_head" in each.name for each in planned.dropped)
    eutectic.run(planned, out=tmp_path / "out")
    assert not any("lm_head" in name for name in load_file(tmp_path / "out" / "adapter_model.safetensors"))


@pytest.mark.parametrize("changes", [{}, {"use_cayley_neumann": False}])
def test_a_stage_is_the_merged_adapter(changes: dict[str, Any], tmp_path: Path) -> None:
    """Merged adapters as a model of another recipe are what the merged adapter is there, written or not."""
    base, adapters = pair(tmp_path, **changes)
    inner = {"models": [str(path) for path in adapters], "method": "orthomerge", "output": {"form": "adapter"}}
    merged(base, inner["models"], tmp_path / "adapter", output=ADAPTER | {"dtype": "float64"})
    for at, model in enumerate((str(tmp_path / "adapter"), {"recipe": inner, "name": "inner"})):
        recipe = {"base": str(base), "models": [model], "method": {"task_arithmetic": {"scale": 0.5}}}
        eutectic.run(eutectic.plan(recipe), out=tmp_path / f"model{at}")
    one, other = (load_file(tmp_path / f"model{at}" / "model.safetensors") for at in range(2))
    before = load_file(base / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert sum(not torch.equal(one[name], before[name]) for name in one) >= 5
    again = merged(base, [{"recipe": inner}, str(adapters[1])], tmp_path / "again")
    three = merged(base, [str(tmp_path / "adapter"), str(adapters[1])], tmp_path / "three")
    for name, value in three.items():
        assert torch.equal(value, again[name])


def test_a_model_of_exact_rotations_is_the_base_turned_by_the_joined_ones(tmp_path: Path) -> None:
    """Merged as models, of a base whose maps have more outputs than inputs, the merged adapter comes out folded."""
    draw = np.random.default_rng(0)
    (tmp_path / "base").mkdir()
    weight = torch.from_numpy(draw.standard_normal((20, 8)))
    save_file({"h.0.up_proj.weight": weight}, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text("{}")
    models = []
    for at in range(2):
        path = tmp_path / f"adapter{at}"
        path.mkdir()
        stored = torch.from_numpy(0.2 * draw.standard_normal((2, 6)))
        save_file({"base_model.model.h.0.up_proj.oft_R.weight": stored}, path / "adapter_model.safetensors")
        config = {"peft_type": "OFT", "oft_block_size": 4, "r": 0, "use_cayley_neumann": False}
        (path / "adapter_config.json").write_text(json.dumps(config))
        models.append(str(path))
    recipe = {"base": str(tmp_path / "base"), "models": models, "method": "orthomerge"}
    eutectic.run(eutectic.plan(recipe | {"dtype": "float64"}), out=tmp_path / "model")
    out = {"form": "adapter", "dtype": "float64"}
    eutectic.run(eutectic.plan(recipe | {"output": out}), out=tmp_path / "turned")
    folded = {"base": str(tmp_path / "base"), "models": [str(tmp_path / "turned")], "method": "task_arithmetic"}
    eutectic.run(eutectic.plan(folded | {"dtype": "float64"}), out=tmp_path / "folded")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "folded"))
    torch.testing.assert_close(one["h.0.up_proj.weight"], other["h.0.up_proj.weight"], rtol=1e-9, atol=1e-9)


def test_what_is_refused(tmp_path: Path) -> None:
    """Other kinds of rotations, other blocks, tensors in full, sources of weights, and a budget too small."""
    base, adapters = pair(tmp_path / "a")
    models = [str(path) for path in adapters]
    with pytest.raises(OverBudget):
        eutectic.plan({"base": str(base), "models": models, "method": "orthomerge", "output": ADAPTER}, memory="1MiB")
    with pytest.raises(RecipeError, match="weights of rotations"):
        merged(base, models, tmp_path / "x", method={"orthomerge": {"weight": "nan"}})
    for cut in ({"rank": 4}, {"error": 0.1}):
        with pytest.raises(RecipeError, match="rotations, which have none"):
            merged(base, models, tmp_path / "x", output=ADAPTER | cut)
    inner = {"models": models, "method": "orthomerge", "output": {"form": "adapter", "rank": 4}}
    with pytest.raises(RecipeError, match="rotations, which have none"):
        merged(base, [{"recipe": inner}], tmp_path / "x", method="linear", output={})
    outer = {"base": str(base), "models": [{"recipe": inner | {"output": {"form": "adapter"}}}], "method": "linear"}
    with pytest.raises(OverBudget):
        eutectic.plan(outer, memory="1MiB")
    _, exact = pair(tmp_path / "b", use_cayley_neumann=False)
    _, wide = pair(tmp_path / "c", oft_block_size=8)
    _, saved = pair(tmp_path / "d", modules_to_save=["lm_head"])
    for other in (exact, wide):
        with pytest.raises(MismatchError, match="made in one way"):
            merged(base, [models[0], str(other[1])], tmp_path / "x")
    with pytest.raises(MismatchError, match="in full beside"):
        merged(base, [models[0], str(saved[1])], tmp_path / "x")
    with pytest.raises(RecipeError, match="no module"):
        merged(base, models, tmp_path / "x", rules=[{"match": "*", "keep": "base"}])
