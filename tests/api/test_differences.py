"""Adapters and deltas as outputs, on real tiny architectures: they load in PEFT and do what base + updates do."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

import eutectic
from eutectic.api import differences
from eutectic.errors import MismatchError, OverBudget, RecipeError
from tests.make.adapters import factors, train, write_adapter

SIZES: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}


def llama() -> LlamaForCausalLM:
    """A tiny Llama, head and embedding apart."""
    return LlamaForCausalLM(
        LlamaConfig(**SIZES, intermediate_size=24, num_key_value_heads=2, tie_word_embeddings=False)
    )


def gpt2() -> GPT2LMHeadModel:
    """A tiny GPT-2, whose Conv1D layers keep weights as (in, out)."""
    sizes = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 12}
    return GPT2LMHeadModel(GPT2Config(**sizes, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0))


def bert() -> BertModel:
    """A tiny BERT."""
    return BertModel(BertConfig(**SIZES, intermediate_size=24))


def mixtral() -> MixtralForCausalLM:
    """A tiny mixture of experts."""
    return MixtralForCausalLM(
        MixtralConfig(**SIZES, intermediate_size=24, num_key_value_heads=2, num_local_experts=3, num_experts_per_tok=2)
    )


#: Per architecture: the model, and the modules that two adapters update; they differ in rank, alpha and targets.
CASES: dict[str, tuple[Callable[[], Any], list[str], list[str], bool]] = {
    "llama": (llama, ["q_proj", "v_proj", "embed_tokens"], ["q_proj", "down_proj"], False),
    "gpt2": (gpt2, ["c_attn", "c_fc"], ["c_attn", "c_proj"], True),
    "bert": (bert, ["query", "dense"], ["query", "value"], False),
    "mixtral": (mixtral, ["q_proj", "o_proj"], ["q_proj", "v_proj"], False),
}


def build(case: str) -> Any:
    """Returns the same random model whenever it is called."""
    torch.manual_seed(3)
    return CASES[case][0]().eval()


def trained(case: str, at: int, folder: Path) -> tuple[Path, Path, dict[str, torch.Tensor]]:
    """Returns the base's folder, an adapter of it, and what the adapter changes, as PEFT itself merges it."""
    targets, fan = CASES[case][1 + at], CASES[case][3]
    lora = LoraConfig(r=4 - at, lora_alpha=6 + at, use_rslora=bool(at), target_modules=targets, fan_in_fan_out=fan)
    base, adapter, merged = train(build(case), lora, folder / str(at), seed=at)
    plain = load_file(folder / str(at) / "base" / "model.safetensors")
    _without_copies(adapter / "adapter_model.safetensors")
    changed = {name: merged[name].double() - value.double() for name, value in plain.items()}
    return Path(base.reference), adapter, {name: value for name, value in changed.items() if value.abs().max() > 0}


def _without_copies(file: Path) -> None:
    """Removes the copy of the base's embedding that PEFT adds to an adapter of the embedding."""
    tensors = load_file(file)
    save_file({name: value for name, value in tensors.items() if ".base_layer." not in name}, file)


def expected_model(case: str, changes: list[dict[str, torch.Tensor]], weights: list[float]) -> Any:
    """Returns the model with the weighted sum of the changes added."""
    model = build(case)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            for change, weight in zip(changes, weights, strict=True):
                if name in change:
                    value += weight * change[name].to(value.dtype)
    return model


def answers(model: Any) -> torch.Tensor:
    """Runs a model on fixed tokens."""
    tokens = torch.arange(20).reshape(2, 10)
    with torch.no_grad():
        found: torch.Tensor = model(tokens)[0]
    return found


def loaded(case: str, adapter: Path) -> Any:
    """Returns the base with an adapter, loaded by PEFT; a key that does not fit is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)  # transformers' own
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
        return PeftModel.from_pretrained(build(case), adapter).eval()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("named", [False, True], ids=["alone", "with base"])
def test_merged_adapters_load_and_do_the_weighted_sum(case: str, named: bool, tmp_path: Path) -> None:
    """Different ranks, scales and targets, a negative weight; with a base or without."""
    made = [trained(case, at, tmp_path) for at in (0, 1)]
    base = made[0][0] if named else None
    recipe = eutectic.merge_adapters([each[1] for each in made], weights=[0.75, -0.5], base=base)
    receipt = eutectic.run(eutectic.plan(recipe), tmp_path / "out")
    assert receipt.truncation["relative_error"] == 0
    assert eutectic.verify(tmp_path / "out", sample=None).ok
    expected = expected_model(case, [each[2] for each in made], [0.75, -0.5])
    assert torch.allclose(answers(loaded(case, tmp_path / "out")), answers(expected), atol=2e-5)


@pytest.mark.parametrize("case", ["llama", "gpt2", "bert"])
def test_extracted_adapters_load_and_do_what_the_model_does(case: str, tmp_path: Path) -> None:
    """A model with an adapter folded in has that rank; biases and norms that did not change are stored as they are."""
    base, adapter, change = trained(case, 0, tmp_path)
    model = tmp_path / "0" / "merged"
    recipe = eutectic.extract_adapter(model, base=base, rank=4)
    receipt = eutectic.run(eutectic.plan(recipe), tmp_path / "out")
    assert receipt.truncation["relative_error"] < 1e-5
    assert eutectic.verify(tmp_path / "out", sample=None).ok
    expected = expected_model(case, [change], [1.0])
    assert torch.allclose(answers(loaded(case, tmp_path / "out")), answers(expected), atol=2e-5)
    assert adapter.exists()


def test_changed_norms_and_biases_are_kept_in_full(tmp_path: Path) -> None:
    """What factors cannot hold is stored, dropped or refused, as asked."""
    base = build("bert")
    base.save_pretrained(tmp_path / "base")
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in base.named_parameters():
            rank_one = (
                torch.outer(*(torch.randn(side, generator=source) for side in value.shape))
                if value.dim() == 2
                else None
            )
            value += 0.05 * (torch.randn(value.shape, generator=source) if rank_one is None else rank_one)
            assert name
    base.save_pretrained(tmp_path / "tuned")
    recipe = eutectic.extract_adapter(tmp_path / "tuned", base=tmp_path / "base", rank=1)
    eutectic.run(eutectic.plan(recipe), tmp_path / "out")
    assert torch.allclose(answers(loaded("bert", tmp_path / "out")), answers(base), atol=2e-5)
    dropped = eutectic.extract_adapter(tmp_path / "tuned", base=tmp_path / "base", rank=1, rest="drop")
    assert any("LayerNorm" in each.name for each in eutectic.plan(dropped).dropped)
    with pytest.raises(MismatchError, match="rest: save"):
        eutectic.plan(eutectic.extract_adapter(tmp_path / "tuned", base=tmp_path / "base", rank=1, rest="error"))


def three(tmp_path: Path) -> tuple[list[Path], list[float], dict[str, torch.Tensor]]:
    """Returns three adapters, weights, and the weighted sum of their updates in float64."""
    shapes = {"layers.0.q": (12, 20), "layers.1.q": (12, 20), "head": (30, 20)}
    weights, folders, total = [0.5, -0.25, 1.5], [], {}
    for at, weight in enumerate(weights):
        held = dict(list(shapes.items())[: 3 if at else 2])
        tensors = {}
        for seed, (module, (out, inputs)) in enumerate(held.items()):
            own = factors(module, out, inputs, rank=2 + at, seed=10 * at + seed)
            tensors |= own
            a, b = (torch.from_numpy(own[f"base_model.model.{module}.lora_{x}.weight"]).double() for x in "AB")
            total[module] = total.get(module, 0) + weight * 3 / (2 + at) * b @ a
        folders.append(write_adapter(tmp_path / f"adapter{at}", tensors, r=2 + at, lora_alpha=3))
    return folders, weights, total


def updates_of(folder: Path) -> dict[str, torch.Tensor]:
    """Returns what a written adapter does, by module."""
    tensors = load_file(folder / "adapter_model.safetensors")
    names = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    return {
        name.removeprefix("base_model.model."): tensors[f"{name}.lora_B.weight"].double()
        @ tensors[f"{name}.lora_A.weight"].double()
        for name in names
    }


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Returns the relative distance."""
    return float((found - expected).norm() / expected.norm())


def test_exact_sums_are_exact_in_float32(tmp_path: Path) -> None:
    """As an adapter, as a dense delta, and through PEFT's cat: within 1e-6 of the true weighted sum."""
    folders, weights, total = three(tmp_path)
    models = [{"model": str(f), "weight": w} for f, w in zip(folders, weights, strict=True)]
    for method in ("task_arithmetic", {"linear": {"normalize": False}}, {"peft": {"type": "cat"}}):
        out = tmp_path / str(method)[:12]
        eutectic.run(eutectic.plan({"models": models, "method": method, "output": {"form": "adapter"}}), out)
        assert max(error(found, total[name]) for name, found in updates_of(out).items()) < 1e-6
    delta = tmp_path / "delta"
    eutectic.run(eutectic.plan({"models": models, "method": "task_arithmetic", "output": {"form": "delta"}}), delta)
    dense = load_file(delta / "delta.safetensors")
    assert max(error(dense[f"{name}.weight"].double(), value) for name, value in total.items()) < 1e-6
    assert not (delta / "config.json").exists()


def test_a_rank_is_kept_and_its_error_told(tmp_path: Path) -> None:
    """The truncated SVD of the true sum, by tensor and in all; the plan says which rank of how many."""
    folders, weights, total = three(tmp_path)
    plan = eutectic.plan(eutectic.merge_adapters(folders, weights=weights, rank=3))
    assert "rank 3 of 9" in plan.explain()
    receipt = eutectic.run(plan, tmp_path / "out")
    lost = 0.0
    for name, found in updates_of(tmp_path / "out").items():
        tail = float(torch.linalg.svdvals(total[name])[3:].norm())
        assert error(found, total[name]) == pytest.approx(tail / float(total[name].norm()), rel=1e-5)
        told = receipt.truncation["tensors"][f"{name}.weight"]
        assert told == {"rank": 3, "relative_error": pytest.approx(tail / float(total[name].norm()), rel=1e-5)}
        lost += tail**2
    norm = sum(float(value.norm()) ** 2 for value in total.values())
    assert receipt.truncation["relative_error"] == pytest.approx((lost / norm) ** 0.5, rel=1e-5)
    written = json.loads((tmp_path / "out" / "eutectic_receipt.json").read_text())
    assert written["truncation"]["relative_error"] == receipt.truncation["relative_error"]


def test_an_error_is_kept_by_the_least_rank(tmp_path: Path) -> None:
    """Ranks differ by tensor, and one less would lose too much."""
    folders, weights, total = three(tmp_path)
    eutectic.run(eutectic.plan(eutectic.merge_adapters(folders, weights=weights, error=0.3)), tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    for name, found in updates_of(tmp_path / "out").items():
        rank = tensors[f"base_model.model.{name}.lora_A.weight"].shape[0]
        values = torch.linalg.svdvals(total[name])
        assert error(found, total[name]) <= 0.3 + 1e-6
        assert rank == 1 or float(values[rank - 1 :].norm()) > 0.3 * float(values.norm())


def test_other_methods_merge_the_updates_themselves(tmp_path: Path) -> None:
    """TIES as an adapter is TIES as a dense delta, cut; whatever factors the updates are made of."""
    folders, _, _ = three(tmp_path)
    chain = [{"trim": {"density": 0.6}}, {"ties": {"density": 1.0}}]
    recipe: dict[str, Any] = {"models": [str(f) for f in folders], "method": chain}
    eutectic.run(eutectic.plan(recipe | {"output": {"form": "delta"}}), tmp_path / "delta")
    dense = load_file(tmp_path / "delta" / "delta.safetensors")
    plan = eutectic.plan(recipe | {"output": {"form": "adapter", "rank": 20}})
    eutectic.run(plan, tmp_path / "out")
    for name, found in updates_of(tmp_path / "out").items():
        assert error(found, dense[f"{name}.weight"].double()) < 1e-5
    with pytest.raises(RecipeError, match="any rank"):
        eutectic.plan(recipe | {"output": {"form": "adapter"}})


def test_methods_on_factors_make_models_too(tmp_path: Path) -> None:
    """A recipe for a model merges the factors first, and adds what they do to the base."""
    base, adapter, change = trained("llama", 0, tmp_path)
    recipe = {"base": str(base), "models": [{"model": str(adapter), "weight": 0.5}], "method": "peft"}
    eutectic.run(eutectic.plan(recipe), tmp_path / "out")
    merged, plain = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", base))
    for name, value in plain.items():
        wanted = value.double() + 0.5 * change.get(name, torch.zeros(()))
        assert torch.allclose(merged[name].double(), wanted, atol=1e-6)
    with pytest.raises(RecipeError, match="add `base:`"):
        eutectic.plan({"models": [str(adapter)], "method": "peft"})


def test_many_adapters_are_summed_as_factors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number the sum for a model is taken of factors first; it is the same sum."""
    made = [trained("llama", at, tmp_path) for at in (0, 1)]
    recipe = eutectic.fold_adapters(made[0][0], [each[1] for each in made], weights=[0.75, -0.5])
    eutectic.run(eutectic.plan(recipe), tmp_path / "few")
    monkeypatch.setattr(differences, "MANY", 1)
    plan = eutectic.plan(recipe)
    assert plan.recipe.models[0].recipe is not None
    eutectic.run(plan, tmp_path / "many")
    few, many = (load_file(tmp_path / out / "model.safetensors") for out in ("few", "many"))
    assert max(float((few[name] - many[name]).abs().max()) for name in few) < 1e-6


def test_budgets_bound_adapters(tmp_path: Path) -> None:
    """Too little is refused before a tensor is read, with what would do."""
    folders, _, _ = three(tmp_path)
    with pytest.raises(OverBudget, match="give at least") as refused:
        eutectic.plan(eutectic.merge_adapters(folders, rank=2), memory="25MiB")
    assert (
        eutectic.plan(eutectic.merge_adapters(folders, rank=2), memory=refused.value.needed).peak
        <= refused.value.needed
    )


def test_what_differences_cannot_be_is_refused(tmp_path: Path) -> None:
    """SLERP of differences, a whole model without a base, slices, ranks of a model."""
    folders, _, _ = three(tmp_path)
    base, _, _ = trained("llama", 0, tmp_path)
    adapter = {"form": "adapter", "rank": 2}
    for recipe, said in (
        (
            {"models": [str(f) for f in folders[:2]], "method": {"slerp": {"t": 0.5}}, "output": adapter},
            "not the difference",
        ),
        ({"models": [str(base)], "method": "task_arithmetic", "output": adapter}, "add `base:`"),
        ({"models": [str(folders[0])], "method": "linear", "output": {"rank": 2}}, "form: adapter"),
        ({"models": [str(base)], "base": str(base), "method": "peft", "output": adapter}, "stored factors"),
    ):
        with pytest.raises(RecipeError, match=said):
            eutectic.plan(recipe)


def test_updates_that_depend_on_the_base_are_merged_as_differences(tmp_path: Path) -> None:
    """DoRA and trained biases have no factors of their own; with the base they are exact."""
    lora = LoraConfig(r=2, lora_alpha=6, target_modules=["query", "dense"], use_dora=True, bias="all")
    base, adapter, merged = train(build("bert"), lora, tmp_path)
    plain = load_file(Path(base.reference) / "model.safetensors")
    recipe = eutectic.merge_adapters([adapter], weights=[1.0], base=base.reference, rank=16, rest="save")
    receipt = eutectic.run(eutectic.plan(recipe), tmp_path / "out")
    assert receipt.truncation["relative_error"] < 1e-6
    expected = build("bert")
    expected.load_state_dict({name: merged.get(name, plain[name]) for name in plain})
    assert torch.allclose(answers(loaded("bert", tmp_path / "out")), answers(expected), atol=2e-5)
