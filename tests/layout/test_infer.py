import json
from fnmatch import fnmatchcase
from typing import Any

import pytest

from eutectic.layout.infer import infer
from eutectic.layout.layout import Layout
from eutectic.layout.roles import Role
from tests.layout.zoo import MODELS, build, header_of

# Written from each model's source, not from what infer says: glob on the module's name -> role, the first that matches.
ATTENTION = {
    "*.q_proj": "attention.query",
    "*.k_proj": "attention.key",
    "*.v_proj": "attention.value",
    "*.o_proj": "attention.output",
    "*attn.out_proj": "attention.output",
}
GATED = {"*.gate_proj": "mlp.gate", "*.up_proj": "mlp.up", "*.down_proj": "mlp.down"}
TWO = {"*.fc1": "mlp.up", "*.fc2": "mlp.down"}
ENDS = {"*embed_tokens": "embedding.word", "*lm_head": "head.word"}
NORMS = {"*norm": "norm", "*layer_norm": "norm", "*layernorm": "norm", "*.ln_[12fq]": "norm", "ln_f": "norm"}
LLAMA = ATTENTION | GATED | ENDS | NORMS
EXPERTS = {
    "*.experts.gate_up_proj": "expert.gate_up",
    "*.experts.down_proj": "expert.down",
    "*.shared_expert*.gate_proj": "shared_expert.gate",
    "*.shared_expert*.up_proj": "shared_expert.up",
    "*.shared_expert*.down_proj": "shared_expert.down",
    "*.shared_expert_gate": "router",
    "*.mlp.gate": "router",
    "*.mlp.gate.e_score_correction_bias": "router",
}
GPT2 = {
    "*wte": "embedding.word",
    "*wpe": "embedding.position",
    "*.attn.c_attn": "attention.qkv",
    "*.attn.c_proj": "attention.output",
    "*.mlp.c_fc": "mlp.up",
    "*.mlp.c_proj": "mlp.down",
    "lm_head": "head.word",
} | NORMS
FUSED = {
    "*.query_key_value": "attention.qkv",
    "*attention.dense": "attention.output",
    "*.dense_h_to_4h": "mlp.up",
    "*.dense_4h_to_h": "mlp.down",
    "*word_embeddings": "embedding.word",
    "*.embed_in": "embedding.word",
    "lm_head": "head.word",
    "*.ln_attn": "norm",
    "*.ln_mlp": "norm",
} | NORMS
BERT = {
    "*LayerNorm": "norm",
    "*.layer_norm": "norm",
    "*.word_embeddings": "embedding.word",
    "*.position_embeddings": "embedding.position",
    "*.token_type_embeddings": "embedding.type",
    "*.attention.self.query": "attention.query",
    "*.attention.self.key": "attention.key",
    "*.attention.self.value": "attention.value",
    "*.attention.output.dense": "attention.output",
    "*.intermediate.dense": "mlp.up",
    "*.output.dense": "mlp.down",
    "cls.predictions.transform.dense": "head.transform",
    "lm_head.dense": "head.transform",
    "cls.predictions": "head.word",
    "cls.predictions.decoder": "head.word",
    "lm_head": "head.word",
    "lm_head.decoder": "head.word",
    "bert.pooler.dense": "pooler",
    "classifier": "head.task",
}
T5 = {
    "*.relative_attention_bias": "attention.position",
    "*.q": "attention.query",
    "*.k": "attention.key",
    "*.v": "attention.value",
    "*.o": "attention.output",
    "*.wi": "mlp.up",
    "*.wi_0": "mlp.gate",
    "*.wi_1": "mlp.up",
    "*.wo": "mlp.down",
    "shared": "embedding.word",
} | (ENDS | NORMS)
SIDES = (
    {
        "*layernorm_embedding": "norm",
        "*.shared": "embedding.word",
        "*.embed_positions": "embedding.position",
        "proj_out": "head.word",
        "final_logits_bias": "head.word",
        "*.conv[12]": "conv",
        "*.project_in": "projection",
        "*.project_out": "projection",
    }
    | ATTENTION
    | TWO
    | ENDS
    | NORMS
)
TOWERS = (
    {
        "*norm[12]": "norm",
        "*norm_before": "norm",
        "*norm_after": "norm",
        "*pre_layrnorm": "norm",
        "*.token_embedding": "embedding.word",
        "*.position_embedding": "embedding.position",
        "*.position_embeddings": "embedding.position",
        "*.patch_embed*": "embedding.patch",
        "*.class_embedding": "embedding.special",
        "*.cls_token": "embedding.special",
        "*.head.probe": "embedding.special",
        "*.head.attention.in_proj_*": "attention.qkv",
        "*.head.attention.out_proj": "attention.output",
        "logit_*": "scale",
        "*.multi_modal_projector.*": "projection",
        "*.merger.mlp.*": "projection",
        "*_projection": "projection",
        "text_model.head": "head.task",
        "classifier": "head.task",
        "*.attn.qkv": "attention.qkv",
        "*.attn.proj": "attention.output",
    }
    | TWO
    | LLAMA
)
EXPECTED: dict[str, dict[str, str]] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": {"*.q_norm": "attention.norm", "*.k_norm": "attention.norm"} | LLAMA,
    "qwen2_moe": EXPERTS | LLAMA,
    "qwen3_moe": {"*.q_norm": "attention.norm", "*.k_norm": "attention.norm"} | EXPERTS | LLAMA,
    "mixtral": EXPERTS | LLAMA,
    "gemma2": LLAMA,
    "phi3": {"*.qkv_proj": "attention.qkv", "*.gate_up_proj": "mlp.gate_up"} | LLAMA,
    "gpt2": GPT2,
    "gpt2_bare": GPT2,
    "gpt_neox": FUSED,
    "bloom": FUSED,
    "falcon": FUSED,
    "opt": SIDES,
    "bert": BERT,
    "bert_classifier": BERT,
    "roberta": BERT,
    "distilbert": {
        "*LayerNorm": "norm",
        "*.q_lin": "attention.query",
        "*.k_lin": "attention.key",
        "*.v_lin": "attention.value",
        "*.out_lin": "attention.output",
        "*.ffn.lin1": "mlp.up",
        "*.ffn.lin2": "mlp.down",
        "vocab_projector": "head.word",
        "vocab_transform": "head.transform",
    }
    | BERT
    | NORMS,
    "modernbert": {
        "*.tok_embeddings": "embedding.word",
        "*.Wqkv": "attention.qkv",
        "*.attn.Wo": "attention.output",
        "*.mlp.Wi": "mlp.gate_up",
        "*.mlp.Wo": "mlp.down",
        "head.dense": "head.transform",
        "decoder": "head.word",
    }
    | NORMS,
    "t5": T5,
    "t5_gated": T5,
    "bart": SIDES,
    "whisper": SIDES,
    "vit": TOWERS,
    "clip": TOWERS,
    "siglip": TOWERS,
    "deepseek_v3": {
        "*.q_a_layernorm": "attention.norm",
        "*.kv_a_layernorm": "attention.norm",
        "*.q_a_proj": "attention.query",
        "*.q_b_proj": "attention.query",
        "*.kv_a_proj_with_mqa": "attention.kv",
        "*.kv_b_proj": "attention.kv",
    }
    | EXPERTS
    | LLAMA,
    "llava": TOWERS,
    "qwen2_vl": TOWERS,
    "mamba": {
        "backbone.embeddings": "embedding.word",
        "*.mixer.in_proj": "ssm.input",
        "*.mixer.out_proj": "ssm.output",
        "*.mixer.conv1d": "ssm.conv",
        "*.mixer.[!ico]*": "ssm.state",
        "*.norm_f": "norm",
        "lm_head": "head.word",
    }
    | NORMS,
}
STACKS: dict[str, dict[str, int]] = {
    "gpt2": {"transformer.h": 3},
    "gpt2_bare": {"h": 3},
    "gpt_neox": {"gpt_neox.layers": 3},
    "bloom": {"transformer.h": 3},
    "falcon": {"transformer.h": 3},
    "opt": {"model.decoder.layers": 3},
    "bert": {"bert.encoder.layer": 3},
    "bert_classifier": {"bert.encoder.layer": 3},
    "roberta": {"roberta.encoder.layer": 3},
    "distilbert": {"distilbert.transformer.layer": 3},
    "t5": {"encoder.block": 3, "decoder.block": 2},
    "t5_gated": {"encoder.block": 3, "decoder.block": 2},
    "bart": {"model.encoder.layers": 3, "model.decoder.layers": 2},
    "whisper": {"model.encoder.layers": 3, "model.decoder.layers": 2},
    "clip": {"text_model.encoder.layers": 3, "vision_model.encoder.layers": 4},
    "siglip": {"text_model.encoder.layers": 3, "vision_model.encoder.layers": 4},
    "mamba": {"backbone.layers": 3},
}


@pytest.fixture(scope="module")
def layouts() -> dict[str, Layout]:
    """The layout of every model of the zoo, read once."""
    return {key: infer(*build(key)) for key in MODELS}


def module(name: str) -> str:
    """Returns a tensor's module: its name without `.weight` or `.bias`."""
    return name.removesuffix(".weight").removesuffix(".bias")


@pytest.mark.parametrize("key", MODELS)
def test_roles(layouts: dict[str, Layout], key: str) -> None:
    """Every tensor of every model has the role its model's source gives it; none is left over."""
    wrong = {}
    for name, place in layouts[key].places.items():
        expected = next((r for pattern, r in EXPECTED[key].items() if fnmatchcase(module(name), pattern)), "unlisted")
        if place.role != expected:
            wrong[name] = (str(place.role), expected)
    assert wrong == {}


@pytest.mark.parametrize("key", MODELS)
def test_blocks(layouts: dict[str, Layout], key: str) -> None:
    """Every number after a stack's prefix is the block; nothing in a block lacks one."""
    layout = layouts[key]
    if key in STACKS:
        assert dict(layout.stacks) == STACKS[key]
    else:
        assert sorted(layout.stacks.values()) in ([3], [3, 4], [4], [2, 3])
    for name, place in layout.places.items():
        inside = [s for s in layout.stacks if name.startswith(f"{s}.")]
        assert inside == ([] if place.stack is None else [place.stack])
        assert (place.block is None) == (place.stack is None)
        if place.stack is not None:
            assert place.block == int(name[len(place.stack) + 1 :].split(".")[0])


def test_depth_runs_over_blocks(layouts: dict[str, Layout]) -> None:
    """Embeddings at 0, block b of L at b / (L - 1), norm and head behind the blocks at 1."""
    places = layouts["llama"].places
    assert [places[f"model.layers.{b}.mlp.up_proj.weight"].depth for b in range(3)] == [0.0, 0.5, 1.0]
    assert places["model.embed_tokens.weight"].depth == 0.0
    assert places["model.norm.weight"].depth == 1.0
    assert places["lm_head.weight"].depth == 1.0


@pytest.mark.parametrize(
    ("key", "name", "depth"),
    [
        ("bert", "bert.embeddings.LayerNorm.weight", 0.0),
        ("clip", "vision_model.pre_layrnorm.weight", 0.0),
        ("clip", "vision_model.post_layernorm.weight", 1.0),
        ("clip", "vision_model.encoder.layers.1.mlp.fc1.weight", 1 / 3),
        ("clip", "text_model.encoder.layers.1.mlp.fc1.weight", 1 / 2),
        ("bart", "model.encoder.layernorm_embedding.weight", 0.0),
        ("opt", "model.decoder.project_in.weight", 0.0),
        ("opt", "model.decoder.project_out.weight", 1.0),
        ("whisper", "model.encoder.conv1.weight", 0.0),
        ("whisper", "model.decoder.layers.1.fc1.weight", 1.0),
        ("gpt2", "transformer.wpe.weight", 0.0),
    ],
)
def test_depth_around_blocks(layouts: dict[str, Layout], key: str, name: str, depth: float) -> None:
    """Each stack has its own depth; what stands before the blocks is at 0, behind them at 1."""
    assert layouts[key].places[name].depth == depth


def test_one_block_is_at_the_end() -> None:
    """The only block of a stack has depth 1."""
    layout = infer(header_of({"h.0.attn.c_attn.weight": (4, 12), "h.0.ln_1.weight": (4,)}), {})
    assert layout.stacks == {"h": 1}
    assert {place.depth for place in layout.places.values()} == {1.0}


def test_experts_are_no_stack() -> None:
    """Numbers inside a block are no blocks: experts, T5's sublayers, sequences without modules."""
    names = [
        f"model.layers.{b}.block_sparse_moe.experts.{e}.w{i}.weight"
        for b in (0, 1)
        for e in range(4)
        for i in (1, 2, 3)
    ]
    names += [f"model.layers.{b}.block_sparse_moe.gate.weight" for b in (0, 1)]
    names += ["classifier.0.weight", "classifier.0.bias", "classifier.1.weight"]
    layout = infer(header_of(dict.fromkeys(names, (8, 8))), {"model_type": "mixtral"})
    assert layout.stacks == {"model.layers": 2}
    place = layout.places["model.layers.1.block_sparse_moe.experts.3.w2.weight"]
    assert (place.role, place.stack, place.block) == (Role.EXPERT_DOWN, "model.layers", 1)
    assert layout.places["model.layers.1.block_sparse_moe.experts.3.w1.weight"].role is Role.EXPERT_GATE
    assert layout.places["model.layers.1.block_sparse_moe.experts.3.w3.weight"].role is Role.EXPERT_UP
    assert layout.places["model.layers.0.block_sparse_moe.gate.weight"].role is Role.ROUTER
    assert layout.places["classifier.1.weight"].block is None


def test_prediction_layers_stand_behind() -> None:
    """DeepSeek's MTP layer has a block of its own number, at depth 1; the hidden blocks' depths ignore it."""
    names = [f"model.layers.{b}.self_attn.o_proj.weight" for b in range(4)]
    names += ["model.layers.3.eh_proj.weight", "model.layers.3.enorm.weight", "model.layers.3.embed_tokens.weight"]
    names += ["model.layers.3.shared_head.head.weight", "model.embed_tokens.weight"]
    config = {"model_type": "deepseek_v3", "num_hidden_layers": 3, "num_nextn_predict_layers": 1}
    layout = infer(header_of(dict.fromkeys(names, (8, 8))), config)
    assert layout.stacks == {"model.layers": 4}
    assert [layout.places[name].depth for name in names[:4]] == [0.0, 0.5, 1.0, 1.0]
    assert layout.places["model.layers.3.shared_head.head.weight"].role is Role.HEAD
    assert layout.places["model.layers.3.eh_proj.weight"].role is Role.PROJECTION
    assert layout.places["model.layers.3.enorm.weight"].role is Role.NORM
    assert layout.vocabulary.keys() == {n for n in names if "embed_tokens" in n or "head.weight" in n}


def test_missing_blocks_keep_their_numbers() -> None:
    """A part of a model (an adapter's deltas, say) is counted by its highest block."""
    layout = infer(header_of({f"model.layers.{b}.mlp.up_proj.weight": (4, 4) for b in (1, 3)}), {})
    assert layout.stacks == {"model.layers": 4}
    assert [place.block for place in layout.places.values()] == [1, 3]


@pytest.mark.parametrize(
    ("key", "tied"),
    [
        ("llama", ()),
        ("qwen2", (("model.embed_tokens.weight", "lm_head.weight"),)),
        ("gpt2", (("transformer.wte.weight", "lm_head.weight"),)),
        ("gpt2_bare", ()),
        (
            "bert",
            (
                ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
                ("cls.predictions.bias", "cls.predictions.decoder.bias"),
            ),
        ),
        ("t5", (("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),)),
        ("whisper", (("model.decoder.embed_tokens.weight", "proj_out.weight"),)),
        ("clip", ()),
    ],
)
def test_tied(layouts: dict[str, Layout], key: str, tied: tuple[tuple[str, ...], ...]) -> None:
    """Groups are what transformers ties; the first is the one to keep."""
    assert layouts[key].tied == tied


def test_tied_as_the_config_says() -> None:
    """An untied T5 keeps its head apart and shares its embeddings; a type that says nothing has its family's habit."""
    shapes = dict.fromkeys(["shared.weight", "encoder.embed_tokens.weight", "lm_head.weight"], (96, 32))
    untied = infer(header_of(shapes), {"model_type": "t5", "tie_word_embeddings": False})
    assert untied.tied == (("shared.weight", "encoder.embed_tokens.weight"),)
    gpt2 = header_of({"wte.weight": (96, 32), "lm_head.weight": (96, 32)})
    assert infer(gpt2, {"model_type": "gpt2"}).tied == (("wte.weight", "lm_head.weight"),)
    assert infer(gpt2, {}).tied == ()
    other = header_of({"wte.weight": (96, 32), "lm_head.weight": (97, 32)})
    assert infer(other, {"model_type": "gpt2"}).tied == ()


def test_vocabulary_axes(layouts: dict[str, Layout]) -> None:
    """Token rows lie along axis 0, in BART's logits bias along axis 1; positions are no tokens."""
    assert layouts["bart"].vocabulary == {
        "final_logits_bias": 1,
        "model.shared.weight": 0,
        "model.encoder.embed_tokens.weight": 0,
        "model.decoder.embed_tokens.weight": 0,
        "lm_head.weight": 0,
    }
    assert layouts["vit"].vocabulary == {}
    assert "cls.predictions.bias" in layouts["bert"].vocabulary


def test_masks_and_packed_weights() -> None:
    """Causal masks are buffers; codes with scales beside them are quantisation, fp8 weights keep their role."""
    header = header_of({"h.0.attn.bias": (1, 1, 8, 8), "h.0.attn.c_attn.bias": (96,)})
    header |= header_of({"layers.0.mlp.up_proj.qweight": (4, 4)}, "I32")
    header |= header_of({"layers.0.mlp.up_proj.scales": (4, 4), "layers.0.mlp.down_proj.weight_scale_inv": (1, 1)})
    header |= header_of({"layers.0.mlp.down_proj.weight": (8, 8)}, "F8_E4M3")
    roles = {name: place.role for name, place in infer(header, {}).places.items()}
    assert roles == {
        "h.0.attn.bias": Role.BUFFER,
        "h.0.attn.c_attn.bias": Role.QKV,
        "layers.0.mlp.up_proj.qweight": Role.QUANTIZATION,
        "layers.0.mlp.up_proj.scales": Role.QUANTIZATION,
        "layers.0.mlp.down_proj.weight_scale_inv": Role.QUANTIZATION,
        "layers.0.mlp.down_proj.weight": Role.DOWN,
    }


@pytest.mark.parametrize(
    ("model_type", "name", "role"),
    [
        ("chatglm", "transformer.encoder.layers.0.mlp.dense_h_to_4h.weight", Role.GATE_UP),
        ("qwen", "transformer.h.0.mlp.w1.weight", Role.UP),
        ("internlm2", "model.layers.0.feed_forward.w1.weight", Role.UP),
        ("vit", "vit.encoder.layer.0.attention.attention.query.weight", Role.QUERY),
        ("llava", "language_model.model.layers.0.self_attn.q_proj.weight", Role.QUERY),
        ("", "visual.transformer.resblocks.0.attn.in_proj_weight", Role.QKV),
        ("", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight", Role.QUERY),
        ("", "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj.weight", Role.UP),
        ("", "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2.weight", Role.DOWN),
        ("", "frobnicator.7.quux", Role.OTHER),
        ("", "0", Role.OTHER),
    ],
)
def test_other_spellings(model_type: str, name: str, role: Role) -> None:
    """Older files, families that use words their own way, diffusers; a name that tells nothing is no error."""
    assert infer(header_of({name: (8, 8)}), {"model_type": model_type}).places[name].role is role


def test_layout_of_nothing() -> None:
    """A file without tensors has an empty layout."""
    config: dict[str, Any] = json.loads("{}")
    assert infer({}, config) == Layout({}, {}, (), {})
