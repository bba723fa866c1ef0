import itertools
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from eutectic.adapters.lora import against, fold, is_adapter, open_adapter
from eutectic.checkpoint.source import Checkpoint, Source
from eutectic.errors import CheckpointError, MismatchError
from tests.make.adapters import factors, open_base, read, train, write_adapter, write_base

EXAMPLES = Path(__file__).parents[2] / "examples" / "text" / "adapters"


def llama(**changes: Any) -> LlamaForCausalLM:
    """Returns a tiny Llama with random weights and an untied head."""
    torch.manual_seed(1)
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=False, **changes))


def gpt2() -> GPT2LMHeadModel:
    """Returns a tiny GPT-2, whose Conv1D layers store weights (in, out), with an untied head."""
    torch.manual_seed(2)
    sizes = {"vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 8}
    return GPT2LMHeadModel(GPT2Config(**sizes, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0))


def bert() -> BertConfig:
    """Returns the configuration of a tiny BERT."""
    return BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)


def gpt_oss() -> GptOssForCausalLM:
    """Returns a tiny mixture of experts whose experts are stacked as (experts, in, out)."""
    torch.manual_seed(3)
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 8}
    return GptOssForCausalLM(GptOssConfig(**sizes, **heads, num_local_experts=3, num_experts_per_tok=2))


ATTENTION = ["q_proj", "v_proj"]
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "linear": (llama, {"target_modules": [*ATTENTION, "down_proj"], "lora_alpha": 7}),
    "rslora": (llama, {"target_modules": ATTENTION, "use_rslora": True}),
    "patterns": (
        llama,
        {
            "target_modules": [*ATTENTION, "k_proj"],
            "rank_pattern": {r"layers\.1\.self_attn\.q_proj": 6, "v_proj": 2},
            "alpha_pattern": {"layers.0.*.q_proj": 1, "k_proj": 40},
        },
    ),
    "embedding": (llama, {"target_modules": ["embed_tokens", "q_proj"]}),
    "modules to save": (llama, {"target_modules": ATTENTION, "modules_to_save": ["lm_head", "norm"]}),
    "conv1d": (gpt2, {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "conv1d beside linear": (gpt2, {"target_modules": ["c_attn", "c_proj", "lm_head", "wte"]}),
    "dora": (llama, {"target_modules": [*ATTENTION, "up_proj"], "use_dora": True}),
    "dora conv1d": (gpt2, {"target_modules": ["c_attn", "c_proj"], "use_dora": True, "fan_in_fan_out": True}),
    "dora embedding": (llama, {"target_modules": ["embed_tokens"], "use_dora": True}),
    "biases": (lambda: llama(attention_bias=True), {"target_modules": ATTENTION, "bias": "all"}),
    "biases of targets": (lambda: llama(attention_bias=True), {"target_modules": ATTENTION, "bias": "lora_only"}),
    "lora bias": (lambda: llama(attention_bias=True), {"target_modules": ATTENTION, "lora_bias": True}),
    "stacked experts": (
        gpt_oss,
        {
            "target_modules": ["q_proj"],
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
            "rank_pattern": {"experts.gate_up_proj": 2},
        },
    ),
    "both biases": (
        lambda: llama(attention_bias=True),
        {"target_modules": ATTENTION, "bias": "lora_only", "lora_bias": True},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_folded_as_peft_merges(case: str, tmp_path: Path) -> None:
    """Every tensor of `base+adapter` is the one PEFT's merge_and_unload gives, to float32 rounding."""
    make, options = CASES[case]
    base, folder, merged = train(make(), LoraConfig(r=4, **options), tmp_path)
    folded = fold(base, folder)
    assert list(folded.source.header) == list(base.source.header)
    assert set(merged) == set(base.source.header)
    changed = 0
    for name, value in merged.items():
        ours = read(folded.source, name)
        np.testing.assert_allclose(ours, value.numpy(), rtol=2e-6, atol=2e-6, err_msg=name)
        changed += not np.array_equal(ours, read(base.source, name))
    assert changed >= 2 or case == "dora embedding"


@pytest.mark.parametrize("case", CASES)
def test_differences_are_folded_minus_base(case: str, tmp_path: Path) -> None:
    """The differences from a base are those of the folded model, and name exactly the tensors it changes."""
    make, options = CASES[case]
    base, folder, _ = train(make(), LoraConfig(r=4, **options), tmp_path)
    folded, deltas = fold(base, folder).source, against(base, folder)
    assert deltas.deltas
    for name, spec in base.source.header.items():
        change = read(folded, name) - read(base.source, name)
        if name in deltas.source.header:
            assert deltas.source.header[name].shape == spec.shape
            np.testing.assert_allclose(read(deltas.source, name), change, rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            assert not change.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_half_and_double_bases(dtype: torch.dtype, tmp_path: Path) -> None:
    """Half-precision bases are widened exactly, factors too; a float64 base stays float64; the rest passes through."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 5, generator=draw, dtype=torch.float64).to(dtype)
    a, b = torch.randn(2, 5, generator=draw), torch.randn(6, 2, generator=draw)
    if dtype is not torch.float64:
        a, b = a.to(dtype), b.to(dtype)
    base = write_base(tmp_path / "base", {"x.weight": weight, "y.weight": weight.clone()})
    names = {"base_model.model.x.lora_A.weight": a, "base_model.model.x.lora_B.weight": b}
    folded = fold(base, write_adapter(tmp_path / "adapter", names)).source
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    exact = weight.double() + 2 * b.double() @ a.double()
    assert folded.header["x.weight"].dtype.name == ("F64" if wide is torch.float64 else "F32")
    np.testing.assert_allclose(read(folded, "x.weight"), exact.numpy(), rtol=1e-6, atol=1e-6)
    assert folded.header["y.weight"] == base.source.header["y.weight"]
    np.testing.assert_array_equal(read(folded, "y.weight"), weight.to(wide).numpy())


def test_without_a_base(tmp_path: Path) -> None:
    """A plain adapter needs no base: its differences are alpha / r times B A, in its own names."""
    folder = write_adapter(tmp_path, factors("model.layers.0.q_proj", 3, 5), lora_alpha=3)
    opened = open_adapter(folder)
    keys = {k.split(".")[-2]: v for k, v in factors("model.layers.0.q_proj", 3, 5).items()}
    assert opened.deltas
    assert opened.folder == folder
    assert opened.config["base_model_name_or_path"] == "org/base"
    assert list(opened.source.header) == ["model.layers.0.q_proj.weight"]
    expected = 1.5 * keys["lora_B"].astype(np.float64) @ keys["lora_A"]
    np.testing.assert_allclose(read(opened.source, "model.layers.0.q_proj.weight"), expected, rtol=1e-5, atol=1e-6)


def test_without_a_base_orientation_is_the_configurations(tmp_path: Path) -> None:
    """fan_in_fan_out and embeddings transpose the product."""
    tensors = factors("h.0.c_fc", 3, 5)
    draw = np.random.default_rng(1)
    a, b = draw.standard_normal((2, 7)).astype(np.float32), draw.standard_normal((3, 2)).astype(np.float32)
    tensors |= {"base_model.model.wte.lora_embedding_A": a, "base_model.model.wte.lora_embedding_B": b}
    source = open_adapter(write_adapter(tmp_path, tensors, fan_in_fan_out=True)).source
    assert source.header["h.0.c_fc.weight"].shape == (5, 3)
    assert source.header["wte.weight"].shape == (7, 3)
    np.testing.assert_allclose(read(source, "wte.weight"), 2 * (b @ a).T, rtol=1e-5, atol=1e-6)


def test_convolutions(tmp_path: Path) -> None:
    """A convolution's factors multiply as matrices over (out) and (in, height, width)."""
    draw = np.random.default_rng(0)
    a, b = draw.standard_normal((2, 3, 2, 2)).astype(np.float32), draw.standard_normal((4, 2, 1, 1)).astype(np.float32)
    base = write_base(tmp_path / "base", {"conv.weight": np.zeros((4, 3, 2, 2), np.float32)})
    names = {"base_model.model.conv.lora_A.weight": a, "base_model.model.conv.lora_B.weight": b}
    folded = fold(base, write_adapter(tmp_path / "adapter", names))
    expected = 2 * np.einsum("or,rihw->oihw", b[:, :, 0, 0], a)
    np.testing.assert_allclose(read(folded.source, "conv.weight"), expected, rtol=1e-5, atol=1e-6)


def sources(case: str, tmp_path: Path) -> list[Source]:
    """Returns the folded model and the differences of a case, with tensors larger than one chunk."""
    draw = np.random.default_rng(3)
    weight = draw.standard_normal((300, 301)).astype(np.float32)
    tensors = factors("x", 300, 301) if case != "conv1d dora" else factors("x", 301, 300)
    options = {}
    if "dora" in case:
        outputs = 301 if case == "conv1d dora" else 300
        tensors["base_model.model.x.lora_magnitude_vector"] = draw.uniform(1, 2, outputs).astype(np.float32)
        options["use_dora"] = True
    base = write_base(tmp_path / "base", {"x.weight": weight})
    folder = write_adapter(tmp_path / "adapter", tensors, **options)
    return [fold(base, folder).source, against(base, folder).source]


@pytest.mark.parametrize("case", ["plain", "dora", "conv1d dora"])
def test_bits_do_not_depend_on_the_range_or_the_thread(case: str, tmp_path: Path) -> None:
    """Reads in pieces, in any order, from several threads, into unaligned memory, give the bytes of one read."""
    for source in sources(case, tmp_path):
        whole = read(source, "x.weight").tobytes()
        edges = [0, 1, 300, 4097, 65536, 65537, 90000, 300 * 301]
        parts = list(itertools.pairwise(edges))[::-1]
        arena = np.zeros(len(whole) + 1, np.uint8)

        def fill(part: tuple[int, int], source: Source = source, arena: Any = arena) -> None:
            start, stop = part
            source.read_into("x.weight", start, arena[1 + 4 * start : 1 + 4 * stop])

        threads = [threading.Thread(target=fill, args=(part,)) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert arena[1:].tobytes() == whole


def test_a_head_of_the_adapters_own(tmp_path: Path) -> None:
    """On a bare encoder a stored classifier is added by `fold`, and refused by `against`."""
    torch.manual_seed(4)
    model = BertForSequenceClassification(bert())
    lora = LoraConfig(r=4, task_type="SEQ_CLS", target_modules=["query", "dense"])
    _, folder, merged = train(model, lora, tmp_path)
    bare = BertModel(bert())
    bare.load_state_dict(BertModel.from_pretrained(tmp_path / "base").state_dict())
    bare.save_pretrained(tmp_path / "bare")
    base = open_base(tmp_path / "bare")
    folded = fold(base, folder).source
    assert list(folded.header)[-2:] == ["classifier.bias", "classifier.weight"]
    np.testing.assert_array_equal(read(folded, "classifier.weight"), merged["classifier.weight"].numpy())
    for name in base.source.header:
        np.testing.assert_allclose(read(folded, name), merged[f"bert.{name}"].numpy(), rtol=2e-6, atol=2e-6)
    with pytest.raises(MismatchError, match=r"'classifier\.\w+' in full"):
        against(base, folder)


def test_prefixes_of_a_base_saved_otherwise(tmp_path: Path) -> None:
    """An adapter of `layers.0.q` fits the base's `model.layers.0.q`."""
    base = write_base(tmp_path / "base", {"model.layers.0.q.weight": np.zeros((3, 5), np.float32)})
    folder = write_adapter(tmp_path / "adapter", factors("layers.0.q", 3, 5))
    assert list(against(base, folder).source.header) == ["model.layers.0.q.weight"]


def test_what_surrounds_a_folded_model_is_the_bases(tmp_path: Path) -> None:
    """The folded checkpoint has the base's folder and configuration, and closing it closes the base."""
    base = write_base(tmp_path / "base", {"x.weight": np.zeros((3, 5), np.float32)})
    base = Checkpoint(base.reference, base.source, base.folder, {"model_type": "toy"}, revision="abc")
    folded = fold(base, write_adapter(tmp_path / "adapter", factors("x", 3, 5)))
    assert (folded.folder, folded.config, folded.revision) == (base.folder, base.config, "abc")
    assert folded.reference == f"{tmp_path / 'base'}+{tmp_path / 'adapter'}"
    assert not folded.deltas
    folded.source.close()
    with pytest.raises(CheckpointError):
        base.source.read_into("x.weight", 0, np.empty(4, np.uint8))


def test_fingerprints_follow_weights_configuration_and_base(tmp_path: Path) -> None:
    """Anything that changes a value changes the fingerprint; opening again does not."""
    base = write_base(tmp_path / "base", {"x.weight": np.zeros((3, 5), np.float32)})
    other = write_base(tmp_path / "other", {"x.weight": np.ones((3, 5), np.float32)})
    first = write_adapter(tmp_path / "1", factors("x", 3, 5))
    stronger = write_adapter(tmp_path / "2", factors("x", 3, 5), lora_alpha=5)
    trained = write_adapter(tmp_path / "3", factors("x", 3, 5, seed=1))
    seen = [fold(base, first), fold(base, stronger), fold(base, trained), fold(other, first)]
    assert len({c.source.fingerprint() for c in seen}) == 4
    assert fold(base, first).source.fingerprint() == seen[0].source.fingerprint()


def plain(**changes: Any) -> dict[str, Any]:
    """Returns a right adapter for `x`, (3, 5), with tensors replaced, or dropped where None."""
    tensors = factors("x", 3, 5) | {f"base_model.model.{name}": value for name, value in changes.items()}
    return {name: value for name, value in tensors.items() if value is not None}


def zeros(*shape: int) -> np.ndarray:
    """Returns float32 zeros."""
    return np.zeros(shape, np.float32)


HOSTILE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no A": (plain(**{"x.lora_A.weight": None}), {}, "no lora_A"),
    "no B": (plain(**{"x.lora_B.weight": None}), {}, "no lora_B"),
    "ranks of A and B differ": (plain(**{"x.lora_B.weight": zeros(3, 4)}), {}, "rank 2, B of shape"),
    "rank is not the configuration's": (plain(), {"r": 4}, "have rank 2, .*adapter_config.json says 4"),
    "rank is not the pattern's": (plain(), {"rank_pattern": {"x": 3}}, "have rank 2, .* says 3"),
    "ungathered factors": (plain(**{"x.lora_A.weight": zeros(0)}), {}, "without gathering"),
    "not in the base": (factors("z", 3, 5), {}, r"'z\.weight' .*not in the base"),
    "wrong outputs": (factors("x", 4, 5), {}, r"expected shape \(3, 5\)"),
    "two naming schemes": (plain(**{"y.lora_A.default.weight": zeros(2, 5)}), {}, "two ways of naming"),
    "two prefixes": (plain() | {"y.lora_A.weight": zeros(2, 5)}, {}, "two ways of naming"),
    "a name twice": (plain(**{"x.weight": zeros(3, 5), "x.base_layer.weight": zeros(3, 5)}), {}, "the same thing"),
    "kohya": ({"lora_unet_x.lora_down.weight": zeros(2, 5)}, {}, "not one that PEFT's LoRA stores"),
    "unknown tensor": (plain(**{"q.weight": zeros(3, 5)}), {}, r"'q\.weight' .*not in the base"),
    "magnitudes without DoRA": (plain(**{"x.lora_magnitude_vector": zeros(3)}), {}, "use_dora is False"),
    "DoRA without magnitudes": (plain(), {"use_dora": True}, "lacks DoRA magnitudes"),
    "resized embedding": (plain(**{"y.weight": zeros(9, 5)}), {}, r"expected shape \(3, 5\) of 'y.weight'"),
    "integer factors": (plain(**{"x.lora_A.weight": np.zeros((2, 5), np.int8)}), {}, "expected float values"),
    "codes in the base": (factors("code", 3, 5), {}, "stored as I8"),
    "bias where there is none": (plain(**{"x.lora_B.bias": zeros(3)}), {}, r"'x\.bias' .*not in the base"),
    "bias of another length": (plain(**{"x.lora_B.bias": zeros(4)}), {}, "expected 3 values"),
    "LoHa": (plain(), {"peft_type": "LOHA"}, "Hadamard"),
    "VeRA": (plain(), {"peft_type": "VERA"}, "from a seed"),
    "unknown type": (plain(), {"peft_type": "NEWEST"}, "NEWEST"),
    "experts": (plain(), {"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
    "PiSSA": (plain(), {"init_lora_weights": "pissa_niter_4"}, "changes the base before training"),
    "unknown option": (plain(), {"use_doora": True}, "use_doora.*did you mean 'use_dora'"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(case: str, tmp_path: Path) -> None:
    """A broken or foreign adapter is refused before a value is read; the message names the file and the rule."""
    tensors, changes, message = HOSTILE[case]
    weights = {"x.weight": zeros(3, 5), "y.weight": zeros(3, 5), "code.weight": np.zeros((3, 5), np.int8)}
    base = write_base(tmp_path / "base", weights)
    folder = write_adapter(tmp_path / "adapter", tensors, **changes)
    for use in (fold, against):
        with pytest.raises((CheckpointError, MismatchError), match=message) as refusal:
            use(base, folder)
        assert str(folder) in str(refusal.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_factors(value: float, tmp_path: Path) -> None:
    """NaN in a factor would spread over a row or column, so it is refused by name when it is read."""
    tensors = factors("x", 3, 5)
    tensors["base_model.model.x.lora_B.weight"][1, 1] = value
    base = write_base(tmp_path / "base", {"x.weight": zeros(3, 5)})
    folded = fold(base, write_adapter(tmp_path / "adapter", tensors))
    with pytest.raises(CheckpointError, match=r"x\.lora_B\.weight' holds (nan|inf) at element 3"):
        read(folded.source, "x.weight")


def test_empty_adapter(tmp_path: Path) -> None:
    """A file without tensors is no adapter."""
    write_adapter(tmp_path, {})
    with pytest.raises(CheckpointError, match="empty"):
        open_adapter(tmp_path)


def test_pickled_adapter(tmp_path: Path) -> None:
    """A pickle beside the configuration is named, and not opened."""
    folder = write_adapter(tmp_path, factors("x", 3, 5))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="a pickle"):
        open_adapter(folder)


def test_dora_and_full_tensors_need_the_base(tmp_path: Path) -> None:
    """Without a base DoRA and tensors stored in full are refused with the reason."""
    dora = plain(**{"x.lora_magnitude_vector": zeros(3)})
    with pytest.raises(CheckpointError, match=r"DoRA.*give the base"):
        open_adapter(write_adapter(tmp_path / "dora", dora, use_dora=True))
    with pytest.raises(CheckpointError, match=r"replaces 'head\.weight' in full.*give the base"):
        open_adapter(write_adapter(tmp_path / "full", plain(**{"head.weight": zeros(2, 2)})))


def test_dora_of_a_zero_row(tmp_path: Path) -> None:
    """A row without direction cannot be rescaled, and is named instead of becoming NaN."""
    tensors = plain(**{"x.lora_magnitude_vector": zeros(3) + 1})
    tensors["base_model.model.x.lora_B.weight"] = np.eye(3, 2, dtype=np.float32)
    base = write_base(tmp_path / "base", {"x.weight": zeros(3, 5)})
    folded = fold(base, write_adapter(tmp_path / "adapter", tensors, use_dora=True))
    with pytest.raises(CheckpointError, match=r"output 2 of 'x\.weight' has no direction"):
        read(folded.source, "x.weight")


def test_an_adapter_is_no_base(tmp_path: Path) -> None:
    """An adapter cannot be folded into another."""
    folder = write_adapter(tmp_path, factors("x", 3, 5))
    with pytest.raises(MismatchError, match="an adapter itself"):
        fold(open_adapter(folder), folder)


def test_is_adapter(tmp_path: Path) -> None:
    """A folder with an adapter_config.json is one."""
    assert not is_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({}))
    assert is_adapter(tmp_path)


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the example adapters are not here")
def test_example_adapters_open() -> None:
    """Each adapter under examples/ opens, with finite differences that are not zero."""
    folders = [folder for folder in sorted(EXAMPLES.iterdir()) if is_adapter(folder)]
    assert folders
    for folder in folders:
        source = open_adapter(folder).source
        values = read(source, next(iter(source.header)))
        assert np.isfinite(values).all()
        assert values.any()
