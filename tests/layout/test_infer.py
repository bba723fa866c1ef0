import json
from fnmatch import fnmatchcase
from typing import Any

import pytest

from eutectic.layout.infer import infer
from eutectic.layout.layout import Layout
from eutectic.layout.roles import Role
from tests.layout.zoo import MODELS, build, header_of, shared

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
QK_NORMS = {"*.q_norm": "attention.norm", "*.k_norm": "attention.norm"}
#: Everything else of a mixer is its state: A, D, dt and what computes them.
STATE = {
    f"*.{mixer}.{what}": role
    for mixer in ("mixer", "mamba", "linear_attn")
    for what, role in {
        "in_proj": "ssm.input",
        "in_proj_qkv": "ssm.input",
        "in_proj_qkvz": "ssm.input",
        "in_proj_z": "ssm.input",
        "out_proj": "ssm.output",
        "conv1d": "ssm.conv",
        "norm": "norm",
        "*_layernorm": "norm",
        "dt_bias": "ssm.state",
        "A_log": "ssm.state",
        "D": "ssm.state",
        "dt_proj": "ssm.state",
        "x_proj": "ssm.state",
        "in_proj_a": "ssm.state",
        "in_proj_b": "ssm.state",
        "in_proj_ba": "ssm.state",
    }.items()
}
POOLED = {"pooler.dense": "pooler"}
DISTILBERT = {
    "*LayerNorm": "norm",
    "*.q_lin": "attention.query",
    "*.k_lin": "attention.key",
    "*.v_lin": "attention.value",
    "*.out_lin": "attention.output",
    "*.ffn.lin1": "mlp.up",
    "*.ffn.lin2": "mlp.down",
    "vocab_projector": "head.word",
    "vocab_transform": "head.transform",
} | (BERT | NORMS)
SEEING = {
    "*.multi_modal_projector": "projection",
    "*.multi_modal_projector.norm": "norm",
    "*.multi_modal_projector.layer_norm": "norm",
    "multi_modal_projector.linear_1": "projection",
    "*.patch_embedding*": "embedding.patch",
    "*.query": "attention.query",
} | TOWERS
DEEPSTACK = (
    {
        "*.pos_embed": "embedding.position",
        "*.merger.norm": "norm",
        "*.deepstack_merger_list.*.norm": "norm",
        "*.merger.linear_fc[12]": "projection",
        "*.deepstack_merger_list.*.linear_fc[12]": "projection",
        "*.linear_fc1": "mlp.up",
        "*.linear_fc2": "mlp.down",
    }
    | QK_NORMS
    | EXPERTS
    | SEEING
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
    "distilbert": DISTILBERT,
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
    # -- decoders
    **dict.fromkeys(("arcee", "cohere", "cohere2", "gemma", "granite", "olmo", "smollm3", "nemotron"), LLAMA),
    **dict.fromkeys(("gemma3", "olmo2", "exaone4"), QK_NORMS | LLAMA),
    "apertus": {"*.act_fn.*": "scale"} | QK_NORMS | LLAMA,
    "gpt2_classifier": {"score": "head.task"} | GPT2,
    "glm4": {"*.gate_up_proj": "mlp.gate_up"} | LLAMA,
    "gpt_bigcode": GPT2,
    "gpt_neo": {"*.out_proj": "attention.output", "*.c_fc": "mlp.up", "*.c_proj": "mlp.down"} | ATTENTION | GPT2,
    "gptj": {"*.fc_in": "mlp.up", "*.fc_out": "mlp.down"} | ATTENTION | GPT2,
    "llama_classifier": {"score": "head.task"} | LLAMA,
    "phi": {"*.self_attn.dense": "attention.output"} | TWO | LLAMA,
    "stablelm": LLAMA,
    "starcoder2": {"*.c_fc": "mlp.up", "*.c_proj": "mlp.down"} | LLAMA,
    "falcon_mqa": FUSED,
    "mpt": {
        "*.norm_[12f]": "norm",
        "*.Wqkv": "attention.qkv",
        "transformer.wte": "embedding.word",
    }
    | LLAMA,
    # -- mixtures of experts
    "glm4_moe": QK_NORMS | EXPERTS | LLAMA,
    "afmoe": {"*.self_attn.gate_proj": "attention.gate", "*.mlp.expert_bias": "router", "*.mlp.router.gate": "router"}
    | QK_NORMS
    | EXPERTS
    | LLAMA,
    "deepseek_v2": {
        "*.kv_a_layernorm": "attention.norm",
        "*.kv_a_proj_with_mqa": "attention.kv",
        "*.kv_b_proj": "attention.kv",
    }
    | EXPERTS
    | LLAMA,
    "gpt_oss": {"*.sinks": "attention.sink", "*.router": "router", "*.experts.gate_up_proj_bias": "expert.gate_up"}
    | {"*.experts.down_proj_bias": "expert.down"}
    | EXPERTS
    | LLAMA,
    "olmoe": QK_NORMS | EXPERTS | LLAMA,
    "phimoe": {"*.router": "router"} | EXPERTS | LLAMA,
    "granitemoe": {"*.router": "router"} | EXPERTS | LLAMA,
    "ernie4_5_moe": {"*.e_score_correction_bias": "router"} | EXPERTS | LLAMA,
    "minimax_m2": {"*.e_score_correction_bias": "router"} | QK_NORMS | EXPERTS | LLAMA,
    # -- state spaces and hybrids
    "granitemoehybrid": {
        "*.shared_mlp.input_linear": "shared_expert.gate_up",
        "*.shared_mlp.output_linear": "shared_expert.down",
        "*.router": "router",
    }
    | STATE
    | EXPERTS
    | LLAMA,
    "mamba2": {"backbone.embeddings": "embedding.word", "*.norm_f": "norm"} | STATE | LLAMA,
    "falcon_mamba": {"backbone.embeddings": "embedding.word", "*.norm_f": "norm"} | STATE | LLAMA,
    "jamba": {"*.router": "router"} | STATE | EXPERTS | LLAMA,
    "bamba": STATE | LLAMA,
    "falcon_h1": STATE | LLAMA,
    "nemotron_h": {
        "*.experts.up_proj": "expert.up",
        "*.experts.down_proj": "expert.down",
        "*.shared_experts.up_proj": "shared_expert.up",
        "*.shared_experts.down_proj": "shared_expert.down",
        "*.mixer.gate": "router",
        "*.mixer.gate.e_score_correction_bias": "router",
        "*.norm_f": "norm",
        "*.embeddings": "embedding.word",
    }
    | STATE
    | LLAMA,
    "qwen3_next": STATE | QK_NORMS | EXPERTS | LLAMA,
    "qwen3_5": STATE | QK_NORMS | LLAMA,
    "lfm2": {
        "*.conv.*": "conv",
        "*.[qk]_layernorm": "attention.norm",
        "*.feed_forward.w1": "mlp.gate",
        "*.feed_forward.w3": "mlp.up",
        "*.feed_forward.w2": "mlp.down",
    }
    | LLAMA,
    "rwkv": {
        "*.embeddings": "embedding.word",
        "*ln[12]": "norm",
        "*.pre_ln": "norm",
        "*.ln_out": "norm",
        "*.time_*": "ssm.state",
        "*.attention.key": "attention.key",
        "*.attention.value": "attention.value",
        "*.attention.receptance": "attention.query",
        "*.attention.output": "attention.output",
        "*.feed_forward.key": "mlp.up",
        "*.feed_forward.value": "mlp.down",
        "*.feed_forward.receptance": "mlp.gate",
        "head": "head.word",
    },
    # -- encoders, and encoders with decoders
    **dict.fromkeys(("bert_bare", "bert_tokens", "roberta_bare", "xlm_roberta"), POOLED | BERT),
    "roberta_classifier": {"classifier.*": "head.task"} | BERT,
    "distilbert_classifier": {"pre_classifier": "head.task"} | DISTILBERT,
    "mpnet": {
        "*.attn.q": "attention.query",
        "*.attn.k": "attention.key",
        "*.attn.v": "attention.value",
        "*.attn.o": "attention.output",
        "*.relative_attention_bias": "attention.position",
    }
    | BERT,
    "deberta": {
        "*.in_proj": "attention.qkv",
        "*.q_bias": "attention.query",
        "*.v_bias": "attention.value",
        "*.q": "attention.query",
        "*.v": "attention.value",
        "*.pos_proj": "attention.position",
        "*.pos_q_proj": "attention.position",
        "*.rel_embeddings": "embedding.position",
    }
    | BERT,
    "deberta_v2": {
        "*.pos_key_proj": "attention.position",
        "*.pos_query_proj": "attention.position",
        "*.query_proj": "attention.query",
        "*.key_proj": "attention.key",
        "*.value_proj": "attention.value",
        "*.rel_embeddings": "embedding.position",
        "*.conv.conv": "conv",
    }
    | BERT,
    "electra": {
        "*.embeddings_project": "projection",
        "generator_predictions.dense": "head.transform",
        "generator_lm_head": "head.word",
    }
    | BERT,
    "albert": {
        "*.full_layer_layer_norm": "norm",
        "*.attention.query": "attention.query",
        "*.attention.key": "attention.key",
        "*.attention.value": "attention.value",
        "*.attention.dense": "attention.output",
        "*.ffn": "mlp.up",
        "*.ffn_output": "mlp.down",
        "*.embedding_hidden_mapping_in": "projection",
        "albert.pooler": "pooler",
        "predictions.dense": "head.transform",
        "predictions": "head.word",
        "predictions.decoder": "head.word",
    }
    | BERT,
    "mt5": T5,
    "pegasus": SIDES,
    # -- vision and language
    "mistral3": {"*.patch_conv": "embedding.patch", "*.ln_pre": "norm"} | SEEING,
    "llama4": {
        "*.positional_embedding_vlm": "embedding.position",
        "*.router": "router",
        "*.layernorm_*": "norm",
    }
    | EXPERTS
    | SEEING,
    "gemma3_vlm": {"*.mm_soft_emb_norm": "norm"} | QK_NORMS | SEEING,
    "gemma4": {
        "*.layer_scalar": "scale",
        "*.per_layer_input_gate": "other",
        "*.per_layer_projection": "other",
        "*.per_layer_model_projection": "other",
        "*.embed_tokens_per_layer": "embedding.word",
    }
    | QK_NORMS
    | LLAMA,
    "qwen2_5_vl": {"*.merger.ln_q": "norm"} | SEEING,
    **dict.fromkeys(("qwen3_vl", "qwen3_vl_moe"), DEEPSTACK),
    "llava_next": {"*.image_newline": "embedding.special"} | SEEING,
    "internvl": {
        "*.lambda_[12]": "scale",
        "*.projection_layer": "attention.output",
        "*.mask_token": "embedding.special",
    }
    | SEEING,
    "mllama": {
        "*.cross_attn.[qk]_norm": "attention.norm",
        "*positional_embedding.*": "embedding.position",
        "*.gate_attn": "scale",
        "*.gate_ffn": "scale",
        "*.cross_attn_attn_gate": "scale",
        "*.cross_attn_mlp_gate": "scale",
        "*.layernorm_*": "norm",
    }
    | SEEING,
}
STACKS: dict[str, dict[str, int]] = {
    "gpt_neo": {"transformer.h": 2},
    "jamba": {"model.layers": 4},
    "mt5": {"encoder.block": 3, "decoder.block": 2},
    "pegasus": {"model.encoder.layers": 3, "model.decoder.layers": 2},
    "albert": {"albert.encoder.albert_layer_groups": 1},
    "mllama": {
        "model.vision_model.transformer.layers": 4,
        "model.vision_model.global_transformer.layers": 2,
        "model.language_model.layers": 3,
    },
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
        assert sorted(layout.stacks.values()) in ([3], [3, 4], [4], [2, 3], [2, 2, 3])
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


@pytest.mark.parametrize("key", MODELS)
def test_tied_is_what_transformers_ties(layouts: dict[str, Layout], key: str) -> None:
    """The model's own objects say which names are one tensor; bare embeddings are tied in memory only."""
    assert {frozenset(group) for group in layouts[key].tied} == {frozenset(group) for group in shared(key)}


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
