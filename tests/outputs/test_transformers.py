"""Outputs are models: transformers loads them without a word, and they compute what the merged weights compute."""

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as hf
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

import eutectic
from tests.outputs.zoo import MODELS, inputs, load, save_family

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes each family once; returns its folder and its models, base first."""
    made: dict[str, tuple[Path, list[Any]]] = {}

    def get(name: str) -> tuple[Path, list[Any]]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
            made[name] = folder, save_family(name, folder)
        return made[name]

    return get


def weights(model: Any) -> Weights:
    """Returns the parameters of a model, tied ones once, in float32."""
    return {name: value.detach().float() for name, value in model.named_parameters()}


def linear_by_hand(models: list[Weights]) -> Weights:
    """Averages state dicts."""
    return {name: sum(each[name] for each in models) / len(models) for name in models[0]}  # type: ignore[misc]


def ties_by_hand(base: Weights, models: list[Weights], density: float) -> Weights:
    """TIES on state dicts as its paper writes it: one cut per model, elected signs, the mean of those who agree."""
    trimmed = []
    for model in models:
        deltas = {name: model[name] - base[name] for name in base}
        every = torch.cat([delta.flatten() for delta in deltas.values()]).abs()
        cut = every.kthvalue(len(every) - int(len(every) * density)).values
        trimmed.append({name: delta * (delta.abs() >= cut) for name, delta in deltas.items()})
    merged = {}
    for name in base:
        rows = torch.stack([each[name] for each in trimmed])
        agree = rows * rows.sum(0).sign() > 0
        merged[name] = base[name] + (rows * agree).sum(0) / agree.sum(0).clamp(min=1)
    return merged


def recipe(folder: Path, method: Any, **more: Any) -> dict[str, Any]:
    """Returns a recipe over a family's folder."""
    return {"base": str(folder / "base"), "models": [str(folder / n) for n in ("one", "two")], "method": method, **more}


def merge(recipe: dict[str, Any], out: Path) -> Path:
    """Merges and returns the output folder."""
    eutectic.run(eutectic.plan(recipe), out)
    return out


def check(out: Path, model: Any, expected: Weights, name: str) -> Any:
    """Loads an output and compares weights and what the model computes with expected weights put in by hand."""
    merged, said = load(type(model), out)
    assert not said["missing_keys"], said
    assert not said["unexpected_keys"], said
    assert not said["mismatched_keys"], said
    found = weights(merged)
    assert set(found) == set(expected)
    dtype = next(model.parameters()).dtype
    close = {"rtol": 8e-3, "atol": 1e-3} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, **close)
    by_hand, _ = load(type(model), out)
    with torch.no_grad():
        for key, value in by_hand.named_parameters():
            value.copy_(expected[key])
        given = inputs(name)
        here, there = merged(**given), by_hand(**given)
    compared = 0
    for field in ("logits", "logits_per_image", "image_embeds"):
        if field in here:
            slack = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
            torch.testing.assert_close(here[field].float(), there[field].float(), **slack)
            assert here[field].isfinite().all()
            compared += 1
    assert compared
    return merged


@pytest.mark.parametrize("name", MODELS)
def test_linear_and_ties(name: str, family: Any, tmp_path: Path) -> None:
    """Both merges load without a missing or unexpected key and equal the merge of state dicts by hand."""
    folder, (base, one, two) = family(name)
    own, others = weights(base), [weights(one), weights(two)]
    linear = merge(recipe(folder, "linear"), tmp_path / "linear")
    check(linear, base, linear_by_hand(others), name)
    ties = merge(recipe(folder, {"ties": {"density": 0.3}}), tmp_path / "ties")
    check(ties, base, ties_by_hand(own, others, 0.3), name)
    for out in (linear, ties):
        assert eutectic.verify(out, sample=None).ok


def test_one_model_for_several_tasks(family: Any, tmp_path: Path) -> None:
    """The merged model loads with its tasks' files beside it, and so does each task's model: EMR by hand."""
    folder, (base, one, two) = family("llama")
    own, models = weights(base), [weights(one), weights(two)]
    deltas = [{name: model[name] - own[name] for name in own} for model in models]
    unified = {}
    for name in own:
        first, second = (each[name] for each in deltas)
        sign = torch.where(first + second > 0, 1.0, -1.0)
        unified[name] = sign * torch.maximum((first * sign).clamp(min=0), (second * sign).clamp(min=0))
    out = merge(recipe(folder, "emr"), tmp_path / "out")
    check(out, base, {name: own[name] + unified[name] for name in own}, "llama")
    for number, delta in enumerate(deltas):
        masked = {name: unified[name] * (delta[name] * unified[name] > 0) for name in own}
        mass = [float(sum(each[name].abs().double().mean() for name in own)) for each in (delta, masked)]
        expected = {name: own[name] + mass[0] / mass[1] * masked[name] for name in own}
        task = tmp_path / f"task {number}"
        eutectic.run(eutectic.plan(eutectic.specialise(out, number + 1)), task)
        check(task, base, expected, "llama")


def test_shards(family: Any, tmp_path: Path) -> None:
    """An output of many small files loads through its index."""
    folder, (base, one, two) = family("llama")
    out = merge(recipe(folder, "linear", output={"shard_size": "4kB"}), tmp_path / "out")
    assert len(list(out.glob("model-*-of-*.safetensors"))) > 4
    assert not (out / "model.safetensors").exists()
    check(out, base, linear_by_hand([weights(one), weights(two)]), "llama")


def test_tied_head_is_written_once(family: Any, tmp_path: Path) -> None:
    """A tied head is in no output, also where one fine-tune stores it."""
    folder, (base, one, two) = family("llama tied")
    stored = load_file(folder / "one" / "model.safetensors")
    assert "lm_head.weight" not in stored
    (tmp_path / "twice").mkdir()
    (tmp_path / "twice" / "config.json").write_bytes((folder / "one" / "config.json").read_bytes())
    twice = stored | {"lm_head.weight": stored["model.embed_tokens.weight"].clone()}
    save_file(twice, tmp_path / "twice" / "model.safetensors", {"format": "pt"})
    merged = recipe(folder, "linear") | {"models": [str(tmp_path / "twice"), str(folder / "two")]}
    out = merge(merged, tmp_path / "out")
    with safe_open(out / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
    model = check(out, base, linear_by_hand([weights(one), weights(two)]), "llama tied")
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtype_of_the_config(dtype: str, family: Any, tmp_path: Path) -> None:
    """The config names the type that was asked for, and the weights have it."""
    folder, _ = family("llama")
    out = merge(recipe(folder, "linear", output={"dtype": dtype}), tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype")) == dtype
    model, _ = load(type(family("llama")[1][0]), out)
    assert {value.dtype for value in model.parameters()} == {getattr(torch, dtype)}


def test_files_beside_the_weights(family: Any, tmp_path: Path) -> None:
    """Generation config, tokenizer and chat template of the named donor are in the output, and load."""
    folder, (base, *_) = family("qwen2")
    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(40)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    donor = tmp_path / "donor"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0")
        tokenizer.chat_template = "{% for m in messages %}w1 {{ m.content }}{% endfor %}"
        base.generation_config.max_length = 17
        base.save_pretrained(donor)
        tokenizer.save_pretrained(donor)
    merged = recipe(folder, "linear") | {"base": str(donor)}
    out = merge(merged, tmp_path / "out")
    same = [path.name for path in donor.iterdir() if path.name not in {"model.safetensors", "config.json"}]
    assert {"generation_config.json", "tokenizer.json", "tokenizer_config.json"} <= set(same)
    for name in same:
        assert (out / name).read_bytes() == (donor / name).read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = hf.PreTrainedTokenizerFast.from_pretrained(out)
        assert hf.GenerationConfig.from_pretrained(out).max_length == 17
    assert loaded("w3 w9")["input_ids"] == [3, 9]
    said = loaded.apply_chat_template([{"role": "user", "content": "w5"}], tokenize=False)
    assert said == "w1 w5"
    assert (out / "eutectic_receipt.json").is_file()
    assert "merge" in (out / "README.md").read_text()


def test_tokenizer_of_a_model(family: Any, tmp_path: Path) -> None:
    """`output.tokenizer` takes the tokenizer from the model it names, and the rest from the base."""
    folder, _ = family("llama")
    other = tmp_path / "other"
    other.mkdir()
    for path in (folder / "two").iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "tokenizer_config.json").write_text('{"model_max_length": 5}')
    (other / "generation_config.json").write_text('{"max_length": 99}')
    merged = recipe(folder, "linear", output={"tokenizer": str(other)}) | {"models": [str(folder / "one"), str(other)]}
    out = merge(merged, tmp_path / "out")
    assert (out / "tokenizer_config.json").read_text() == '{"model_max_length": 5}'
    assert (out / "generation_config.json").read_bytes() == (folder / "base" / "generation_config.json").read_bytes()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_adapters(name: str, family: Any, tmp_path: Path) -> None:
    """Adapters merge as deltas of the base and as base+adapter, as PEFT's own merged models would."""
    folder, (base, *_) = family(name)
    target = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn"]}[name]
    full = []
    for seed, adapter in enumerate(("a", "b")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, _ = load(type(base), folder / "base")
            lora = peft.LoraConfig(r=2, lora_alpha=6, target_modules=target, task_type="CAUSAL_LM")
            tuned = peft.get_peft_model(model, lora)
            draw = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for value in (value for value in tuned.parameters() if value.requires_grad):
                    value += torch.randn(value.shape, generator=draw)
            tuned.save_pretrained(tmp_path / adapter)
            full.append(weights(tuned.merge_and_unload()))
    one, two = (str(tmp_path / adapter) for adapter in ("a", "b"))
    own = str(folder / "base")
    changed = [key for key in full[0] if not torch.equal(full[0][key], weights(base)[key])]
    assert changed
    linear = linear_by_hand(full)
    both = merge(
        {"base": own, "models": [one, two], "method": {"task_arithmetic": {"weight": 0.5}}}, tmp_path / "deltas"
    )
    check(both, base, linear, name)
    sums = merge({"models": [f"{own}+{one}", f"{own}+{two}"], "method": "linear"}, tmp_path / "models")
    check(sums, base, linear, name)
    mixed = merge({"base": own, "models": [one, f"{own}+{two}"], "method": "linear"}, tmp_path / "mixed")
    check(mixed, base, linear, name)


def test_slices_change_the_number_of_blocks(family: Any, tmp_path: Path) -> None:
    """A passthrough of blocks loads with as many blocks as it says, each the one it was taken from."""
    folder, (base, one, two) = family("llama")
    slices = [{"sources": [{"model": "one", "blocks": [0, 2]}]}, {"sources": [{"model": "two", "blocks": [1, 2]}]}]
    named = [{"model": str(folder / name), "name": name} for name in ("one", "two")]
    out = merge({"models": named, "method": "passthrough", "slices": slices}, tmp_path / "out")
    model, said = load(type(base), out)
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    assert model.config.num_hidden_layers == len(model.model.layers) == 3
    for block, (source, number) in enumerate(((one, 0), (one, 1), (two, 1))):
        for key, value in source.model.layers[number].state_dict().items():
            assert torch.equal(model.model.layers[block].state_dict()[key], value)
    assert torch.equal(model.lm_head.weight, two.lm_head.weight)
    assert model(**inputs("llama")).logits.isfinite().all()
