import json
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from eutectic.calibrate.skeleton import Skeleton, Weights, WithHead, build, find_blocks, renamed
from eutectic.checkpoint.open import open_checkpoint
from eutectic.checkpoint.source import Checkpoint
from eutectic.errors import CalibrationError
from tests.make.memory import MemorySource
from tests.make.transformer import config, save

KINDS = {
    "bert": "BertForMaskedLM",
    "llama": "LlamaForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "t5": "T5ForConditionalGeneration",
    "vit": "ViTForImageClassification",
}


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_it_is_the_model(kind: str, tmp_path: Path) -> None:
    """Every parameter and buffer is what transformers loads, tied ones included; freed, none takes memory."""
    folder = save(tmp_path / "m", config(kind), KINDS[kind], 1, words=False)
    checkpoint = open_checkpoint(str(folder))
    state = torch.random.get_rng_state()
    module = build(checkpoint, headless=False)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(parameter.is_meta for parameter in module.parameters())
    skeleton = Skeleton(module, str(folder))
    fitted = skeleton.fit(Weights(checkpoint))
    for part in (None, *skeleton.blocks):
        skeleton.load(part, fitted)
    loaded = getattr(transformers, KINDS[kind]).from_pretrained(folder)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor), name
    for (name, one), (other, two) in zip(module.named_buffers(), loaded.named_buffers(), strict=True):
        assert (name, one.tolist()) == (other, two.tolist())
    for part in (None, *skeleton.blocks):
        skeleton.free(part)
    assert all(parameter.is_meta for parameter in module.parameters())


def test_blocks_are_the_outermost_lists_of_one_class() -> None:
    """Lists of different modules, or within a block, are none."""
    inner = nn.ModuleDict({"experts": nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])})
    model = nn.ModuleDict({"layers": nn.ModuleList([inner, nn.ModuleDict({"x": nn.Linear(1, 1)})])})
    model["mixed"] = nn.ModuleList([nn.Linear(1, 1), nn.ReLU()])
    assert list(find_blocks(model)) == ["layers.0", "layers.1"]


def test_parts_cover_the_model(tmp_path: Path) -> None:
    """Every parameter is in one block or in none; as one part all is outside."""
    folder = save(tmp_path / "m", config("t5"), KINDS["t5"], 1, words=False)
    module = build(open_checkpoint(str(folder)), headless=True)
    skeleton = Skeleton(module, "m")
    sizes = sum(skeleton.nbytes(part) for part in (None, *skeleton.blocks))
    assert sizes == 4 * sum(parameter.numel() for parameter in module.parameters())
    assert list(skeleton.blocks) == ["encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1"]
    assert Skeleton(module, "m", blocks=False).nbytes(None) == sizes


def test_prefixes_and_old_names_are_matched(tmp_path: Path) -> None:
    """A bare model's file for a model with a head and the other way round, and the names of the first BERTs."""
    folder = save(tmp_path / "m", config("bert"), "BertModel", 1, words=False)
    checkpoint = open_checkpoint(str(folder))
    tensors = {name: Weights(checkpoint).read(name) for name in checkpoint.source.header}
    with_prefix = {f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma"): t for name, t in tensors.items()}
    other = Checkpoint("o", MemorySource(with_prefix), checkpoint.folder, checkpoint.config)
    skeleton = Skeleton(build(checkpoint, headless=True), "m")
    fitted = skeleton.fit(Weights(other))
    assert set(fitted.stored.values()) == set(with_prefix)
    assert renamed(skeleton.module, []) == {}


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    """Missing tensors and other shapes, with the class that config.json names."""
    folder = save(tmp_path / "m", config("bert"), "BertModel", 1, words=False)
    checkpoint = open_checkpoint(str(folder))
    few = Checkpoint("few", MemorySource({"embeddings.LayerNorm.bias": torch.zeros(3)}), folder, checkpoint.config)
    skeleton = Skeleton(build(checkpoint, headless=True), "few")
    with pytest.raises(CalibrationError, match=r"few: .*BertModel.*not there.* and \d+ more"):
        skeleton.fit(Weights(few))


def test_what_cannot_be_built(tmp_path: Path) -> None:
    """No config, an unknown family, settings that make no sense."""
    bare = Checkpoint("bare", MemorySource({}))
    with pytest.raises(CalibrationError, match=r"bare: expected a folder with a config\.json"):
        build(bare, headless=True)
    for settings in ({"model_type": "nothing"}, {"model_type": "bert", "hidden_size": 15, "num_attention_heads": 4}):
        (tmp_path / "config.json").write_text(json.dumps(settings))
        with pytest.raises(CalibrationError, match="transformers cannot build it"):
            build(Checkpoint("m", MemorySource({}), tmp_path, settings), headless=True)


def test_an_adapters_weights_are_the_bases_plus_its_differences() -> None:
    """Tensors it leaves alone are the base's."""
    base = Checkpoint("b", MemorySource({"a": torch.ones(2), "b": torch.ones(2, dtype=torch.bfloat16)}))
    delta = Checkpoint("d", MemorySource({"a": torch.full((2,), 0.5)}), deltas=True)
    weights = Weights(delta, base)
    assert weights.read("a").tolist() == [1.5, 1.5]
    assert weights.read("b").dtype == torch.float32
    assert set(weights.names) == {"a", "b"}
    assert weights.fingerprint not in (Weights(base).fingerprint, delta.source.fingerprint())


def test_weights_under_the_head_of_another() -> None:
    """The head's tensors are the other model's, also where it alone has them; changing either changes the whole."""
    body = Checkpoint("b", MemorySource({"a": torch.ones(2), "head": torch.ones(3)}))
    other = Checkpoint("o", MemorySource({"a": torch.zeros(2), "head": torch.zeros(5), "head.more": torch.zeros(1)}))
    weights = WithHead(Weights(body), Weights(other), frozenset(["head", "head.more"]))
    assert weights.names == {"a": (2,), "head": (5,), "head.more": (1,)}
    assert weights.read("a").tolist() == [1, 1]
    assert weights.read("head").tolist() == [0] * 5
    assert all(each.source.fingerprint() in weights.fingerprint for each in (body, other))
