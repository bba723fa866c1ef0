"""Live models with experts: on real architectures, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, OFTConfig, PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

import eutectic
from eutectic.errors import CheckpointError, MismatchError, RecipeError
from eutectic.routed.smile import Smile
from tests.adapters.test_lora import gpt2, llama
from tests.make.adapters import factors, train, write_adapter

IDS = torch.arange(12).reshape(2, 6) % 7


def logits(model: nn.Module) -> torch.Tensor:
    """What a model says of a few tokens."""
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits
        return found


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # PEFT asks for it
@pytest.mark.parametrize(("make", "targets"), [(llama, ["q_proj", "down_proj"]), (gpt2, ["c_attn", "c_proj"])])
def test_one_expert_is_its_adapter(make: Any, targets: list[str], tmp_path: Path) -> None:
    """A model with one expert, or the same one thrice, computes what PEFT's does; its maps are those of the adapter."""
    base, folder, _ = train(make(), LoraConfig(r=3, lora_alpha=6, target_modules=targets), tmp_path)
    expected = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.folder), folder))
    for experts in ([folder], [folder] * 3):
        model = AutoModelForCausalLM.from_pretrained(base.folder)
        before = logits(model)
        found = eutectic.smile(model, experts)
        assert all(name.rpartition(".")[2] in targets for name in found.maps)
        assert len(found.maps) == sum(isinstance(module, Smile) for module in model.modules()) >= 4
        assert found.left == ()
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(before, expected, atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_experts_are_weighed_by_token(tmp_path: Path) -> None:
    """Every token is served by one of two experts at each map, and they share the work."""
    made = [train(llama(), LoraConfig(r=3, target_modules=["q_proj"]), tmp_path / str(at), seed=at) for at in range(2)]
    model = AutoModelForCausalLM.from_pretrained(made[0][0].folder)
    found = eutectic.smile(model, [folder for _, folder, _ in made], gate=2)
    assert found.experts == tuple(str(folder) for _, folder, _ in made)
    seen = []
    layer = model.get_submodule(found.maps[0])
    layer.register_forward_pre_hook(lambda module, args: seen.append(module.weights(args[0])))
    logits(model)
    (weights,) = seen
    assert weights.shape == (2, 6, 2)
    assert set(weights.unique().tolist()) == {0.0, 1.0}


def test_what_stays_the_bases(tmp_path: Path) -> None:
    """Embeddings, norms and heads that an adapter changes are named, and are not touched."""
    options = {"r": 2, "target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["norm"]}
    base, folder, _ = train(llama(), LoraConfig(**options), tmp_path)
    model = AutoModelForCausalLM.from_pretrained(base.folder)
    norm = model.model.norm.weight.clone()
    found = eutectic.smile(model, [folder])
    assert {"model.embed_tokens.weight", "model.norm.weight"} <= set(found.left)
    assert all("q_proj" in name for name in found.maps)
    assert torch.equal(model.model.norm.weight, norm)


def net(bias: bool = True) -> nn.Module:
    """A model of one linear map and one norm."""
    made = nn.Module()
    made.layer, made.norm = nn.Linear(4, 3, bias), nn.LayerNorm(3)
    return made.requires_grad_(False)


def test_biases(tmp_path: Path) -> None:
    """A trained bias that is stored in full, or as a part of B, is an expert's too; without a weight it is left."""
    stored: dict[str, Any] = factors("layer", 3, 4)
    stored["base_model.model.layer.base_layer.bias"] = np.array([1, 2, 3], np.float32)
    folder = write_adapter(tmp_path / "full", stored, bias="lora_only")
    model = net()
    plain, x = model.layer, torch.ones(1, 4)
    update = 2 * torch.from_numpy(
        stored["base_model.model.layer.lora_B.weight"] @ stored["base_model.model.layer.lora_A.weight"]
    )
    eutectic.smile(model, [folder])
    torch.testing.assert_close(model.layer(x), x @ (plain.weight + update).T + torch.tensor([[1.0, 2, 3]]))
    shifted = factors("layer", 3, 4) | {"base_model.model.layer.lora_B.bias": np.array([1, 0, 2], np.float32)}
    model = net()
    plain = model.layer
    eutectic.smile(model, [write_adapter(tmp_path / "shift", shifted, lora_bias=True)])
    expected = plain(x) + x @ update.T + 2 * torch.tensor([[1.0, 0, 2]])
    torch.testing.assert_close(model.layer(x), expected)


def test_what_is_refused(tmp_path: Path) -> None:
    """Numbers out of bounds, adapters of other models and other kinds, and a model that has experts already."""
    good = write_adapter(tmp_path / "good", factors("layer", 3, 4))
    for wrong in ({"gate": 0}, {"top": 2}, {"top": 0}, {"rank": 0}):
        with pytest.raises(RecipeError, match="expected experts"):
            eutectic.smile(net(), [good], **wrong)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="found 0 experts"):
        eutectic.smile(net(), [])
    with pytest.raises(MismatchError, match="not in the base the model"):
        eutectic.smile(net(), [write_adapter(tmp_path / "other", factors("other", 3, 4))])
    with pytest.raises(MismatchError, match="expected shape"):
        eutectic.smile(net(), [write_adapter(tmp_path / "wide", factors("layer", 3, 5))])
    norm = {"base_model.model.norm.modules_to_save.weight": np.ones(3, np.float32)}
    with pytest.raises(MismatchError, match="no linear map"):
        eutectic.smile(net(), [write_adapter(tmp_path / "norm", norm, modules_to_save=["norm"])])
    dora = factors("layer", 3, 4) | {"base_model.model.layer.lora_magnitude_vector.weight": np.ones(3, np.float32)}
    with pytest.raises(CheckpointError, match="DoRA or OFT"):
        eutectic.smile(net(), [write_adapter(tmp_path / "dora", dora, use_dora=True)])
    base, turned, _ = train(llama(), OFTConfig(target_modules=["q_proj"], oft_block_size=4), tmp_path / "oft")
    with pytest.raises(CheckpointError, match="DoRA or OFT"):
        eutectic.smile(AutoModelForCausalLM.from_pretrained(base.folder), [turned])
    broken = factors("layer", 3, 4)
    broken["base_model.model.layer.lora_A.weight"][0, 0] = np.nan
    with pytest.raises(CheckpointError, match="nan"):
        eutectic.smile(net(), [write_adapter(tmp_path / "nan", broken)])
    model = net()
    eutectic.smile(model, [good])
    with pytest.raises(RecipeError, match="already"):
        eutectic.smile(model, [good])
