"""Names that files carry and transformers does not build: code from the hub, older spellings, experts one by one.

Written from the authors' published code and files; each model is a list of blocks' tensors and of those around them.
"""

from typing import NamedTuple

import pytest

from eutectic.layout.infer import infer
from eutectic.layout.layout import Layout
from tests.layout.zoo import header_of

BLOCKS = 3


class Written(NamedTuple):
    """One architecture: its type, the prefix of its blocks, roles by name in a block, and by name outside."""

    model_type: str
    stack: str
    inside: dict[str, str]
    outside: dict[str, str]
    config: dict[str, object] | None = None


NORMS = {"input_layernorm": "norm", "post_attention_layernorm": "norm"}
SPLIT = {
    f"self_attn.{word}_proj": f"attention.{role}" for word, role in zip("qkv", ("query", "key", "value"), strict=True)
}
LLAMA = SPLIT | {"self_attn.o_proj": "attention.output"}
GATED = {f"mlp.{word}_proj": f"mlp.{word}" for word in ("gate", "up", "down")}
ENDS = {"model.embed_tokens": "embedding.word", "model.norm": "norm", "lm_head": "head.word"}
GPT = {"transformer.wte": "embedding.word", "transformer.ln_f": "norm", "lm_head": "head.word"}
W_EXPERTS = {"w1": "expert.gate", "w2": "expert.down", "w3": "expert.up"}
PROJ_EXPERTS = {f"{word}_proj": f"expert.{word}" for word in ("gate", "up", "down")}
SHARED = {f"mlp.shared_experts.{word}_proj": f"shared_expert.{word}" for word in ("gate", "up", "down")}
LATENT = {
    "self_attn.q_a_proj": "attention.query",
    "self_attn.q_a_layernorm": "attention.norm",
    "self_attn.q_b_proj": "attention.query",
    "self_attn.kv_a_proj_with_mqa": "attention.kv",
    "self_attn.kv_a_layernorm": "attention.norm",
    "self_attn.kv_b_proj": "attention.kv",
    "self_attn.o_proj": "attention.output",
}


def experts(prefix: str, names: dict[str, str]) -> dict[str, str]:
    """Four experts, one by one."""
    return {f"{prefix}.experts.{number}.{name}": role for number in range(4) for name, role in names.items()}


ON_DISK: dict[str, Written] = {
    "baichuan": Written(
        "baichuan",
        "model.layers",
        {"self_attn.W_pack": "attention.qkv", "self_attn.o_proj": "attention.output"} | GATED | NORMS,
        ENDS,
    ),
    "internlm2": Written(
        "internlm2",
        "model.layers",
        {
            "attention.wqkv": "attention.qkv",
            "attention.wo": "attention.output",
            "feed_forward.w1": "mlp.gate",
            "feed_forward.w2": "mlp.down",
            "feed_forward.w3": "mlp.up",
            "attention_norm": "norm",
            "ffn_norm": "norm",
        },
        {"model.tok_embeddings": "embedding.word", "model.norm": "norm", "output": "head.word"},
    ),
    "chatglm": Written(
        "chatglm",
        "transformer.encoder.layers",
        {
            "self_attention.query_key_value": "attention.qkv",
            "self_attention.dense": "attention.output",
            "mlp.dense_h_to_4h": "mlp.gate_up",
            "mlp.dense_4h_to_h": "mlp.down",
        }
        | NORMS,
        {
            "transformer.embedding.word_embeddings": "embedding.word",
            "transformer.rotary_pos_emb.inv_freq": "buffer",
            "transformer.encoder.final_layernorm": "norm",
            "transformer.output_layer": "head.word",
        },
    ),
    "qwen": Written(
        "qwen",
        "transformer.h",
        {
            "attn.c_attn": "attention.qkv",
            "attn.c_proj": "attention.output",
            "mlp.w1": "mlp.up",
            "mlp.w2": "mlp.gate",
            "mlp.c_proj": "mlp.down",
            "ln_1": "norm",
            "ln_2": "norm",
        },
        GPT,
    ),
    "exaone": Written(
        "exaone",
        "transformer.h",
        {
            "attn.attention.q_proj": "attention.query",
            "attn.attention.k_proj": "attention.key",
            "attn.attention.v_proj": "attention.value",
            "attn.attention.out_proj": "attention.output",
            "mlp.c_fc_0": "mlp.gate",
            "mlp.c_fc_1": "mlp.up",
            "mlp.c_proj": "mlp.down",
            "ln_1": "norm",
            "ln_2": "norm",
        },
        GPT,
    ),
    "jais": Written(
        "jais",
        "transformer.h",
        {
            "attn.c_attn": "attention.qkv",
            "attn.c_proj": "attention.output",
            "mlp.c_fc": "mlp.up",
            "mlp.c_fc2": "mlp.gate",
            "mlp.c_proj": "mlp.down",
            "ln_1": "norm",
            "ln_2": "norm",
        },
        {
            "transformer.wte": "embedding.word",
            "transformer.relative_pe.slopes": "attention.position",
            "transformer.ln_f": "norm",
        },
    ),
    "phi-msft": Written(
        "phi-msft",
        "transformer.h",
        {
            "mixer.Wqkv": "attention.qkv",
            "mixer.out_proj": "attention.output",
            "mlp.fc1": "mlp.up",
            "mlp.fc2": "mlp.down",
            "ln": "norm",
        },
        {"transformer.embd.wte": "embedding.word", "lm_head.ln": "norm", "lm_head.linear": "head.word"},
    ),
    "phi3small": Written(
        "phi3small",
        "model.layers",
        {
            "self_attn.query_key_value": "attention.qkv",
            "self_attn.dense": "attention.output",
            "mlp.up_proj": "mlp.gate_up",
            "mlp.down_proj": "mlp.down",
        }
        | NORMS,
        {"model.embed_tokens": "embedding.word", "model.final_layernorm": "norm", "lm_head": "head.word"},
    ),
    "solar": Written("solar", "model.layers", LLAMA | GATED | NORMS, ENDS),
    "stablelm_epoch": Written("stablelm_epoch", "model.layers", LLAMA | GATED | NORMS, ENDS),
    "mixtral": Written(
        "mixtral",
        "model.layers",
        {"block_sparse_moe.gate": "router"} | experts("block_sparse_moe", W_EXPERTS) | LLAMA | NORMS,
        ENDS,
    ),
    "qwen2_moe": Written(
        "qwen2_moe",
        "model.layers",
        {"mlp.gate": "router", "mlp.shared_expert_gate": "router"}
        | {f"mlp.shared_expert.{word}_proj": f"shared_expert.{word}" for word in ("gate", "up", "down")}
        | experts("mlp", PROJ_EXPERTS)
        | LLAMA
        | NORMS,
        ENDS,
    ),
    "granitemoe": Written(
        "granitemoe",
        "model.layers",
        {
            "block_sparse_moe.input_linear": "expert.gate_up",
            "block_sparse_moe.output_linear": "expert.down",
            "block_sparse_moe.router.layer": "router",
        }
        | LLAMA
        | NORMS,
        ENDS,
    ),
    "deepseek_v3": Written(
        "deepseek_v3",
        "model.layers",
        {"mlp.gate": "router", "mlp.gate.e_score_correction_bias": "router"}
        | SHARED
        | experts("mlp", PROJ_EXPERTS)
        | LATENT
        | NORMS,
        ENDS
        | {
            "model.layers.3.enorm": "norm",
            "model.layers.3.hnorm": "norm",
            "model.layers.3.eh_proj": "projection",
            "model.layers.3.embed_tokens": "embedding.word",
            "model.layers.3.shared_head.norm": "norm",
            "model.layers.3.shared_head.head": "head.word",
            "model.layers.3.self_attn.o_proj": "attention.output",
        },
        {"num_hidden_layers": BLOCKS, "num_nextn_predict_layers": 1},
    ),
    "qwen3_next": Written(
        "qwen3_next",
        "model.layers",
        {
            "linear_attn.in_proj_qkvz": "ssm.input",
            "linear_attn.in_proj_ba": "ssm.state",
            "linear_attn.conv1d": "ssm.conv",
            "linear_attn.norm": "norm",
            "linear_attn.out_proj": "ssm.output",
        }
        | experts("mlp", PROJ_EXPERTS)
        | NORMS,
        ENDS
        | {
            "mtp.fc": "projection",
            "mtp.norm": "norm",
            "mtp.pre_fc_norm_embedding": "norm",
            "mtp.pre_fc_norm_hidden": "norm",
            "mtp.layers.0.self_attn.q_proj": "attention.query",
            "mtp.layers.0.mlp.gate": "router",
            "mtp.layers.0.mlp.experts.0.up_proj": "expert.up",
        },
    ),
    "qwen2_vl": Written(
        "qwen2_vl",
        "model.layers",
        LLAMA | GATED | NORMS,
        ENDS
        | {
            "visual.patch_embed.proj": "embedding.patch",
            "visual.blocks.0.attn.qkv": "attention.qkv",
            "visual.blocks.0.attn.proj": "attention.output",
            "visual.blocks.0.mlp.fc1": "mlp.up",
            "visual.blocks.0.norm1": "norm",
            "visual.merger.ln_q": "norm",
            "visual.merger.mlp.0": "projection",
        },
    ),
    "gemma3": Written(
        "gemma3",
        "language_model.model.layers",
        LLAMA | GATED | NORMS,
        {
            "language_model.model.embed_tokens": "embedding.word",
            "language_model.model.norm": "norm",
            "multi_modal_projector.mm_input_projection_weight": "projection",
            "multi_modal_projector.mm_soft_emb_norm": "norm",
            "vision_tower.vision_model.embeddings.patch_embedding": "embedding.patch",
            "vision_tower.vision_model.encoder.layers.0.self_attn.out_proj": "attention.output",
            "vision_tower.vision_model.encoder.layers.0.mlp.fc2": "mlp.down",
        },
    ),
    "dbrx": Written(
        "dbrx",
        "transformer.blocks",
        {
            "norm_attn_norm.attn.Wqkv": "attention.qkv",
            "norm_attn_norm.attn.out_proj": "attention.output",
            "norm_attn_norm.norm_1": "norm",
            "ffn.router.layer": "router",
            "ffn.experts.mlp.w1": "expert.gate",
            "ffn.experts.mlp.v1": "expert.up",
            "ffn.experts.mlp.w2": "expert.down",
        },
        {"transformer.wte": "embedding.word", "transformer.norm_f": "norm", "lm_head": "head.word"},
    ),
    "gpt_oss": Written(
        "gpt_oss",
        "model.layers",
        {
            "self_attn.sinks": "attention.sink",
            "mlp.router": "router",
            "mlp.experts.gate_up_proj": "expert.gate_up",
            "mlp.experts.down_proj": "expert.down",
            "mlp.experts.gate_up_proj_bias": "expert.gate_up",
        }
        | LLAMA
        | NORMS,
        ENDS,
    ),
}


def names(written: Written) -> dict[str, str]:
    """Returns the expected role of every tensor's name."""
    bare = {f"{written.stack}.{block}.{name}": role for block in range(BLOCKS) for name, role in written.inside.items()}
    whole = ("inv_freq", "slopes", "sinks", "_bias", "_weight", "gate_up_proj", "experts.down_proj", ".v1")
    return {name if name.endswith(whole) else f"{name}.weight": role for name, role in (bare | written.outside).items()}


def layout(key: str) -> Layout:
    """Returns the layout of an architecture."""
    written = ON_DISK[key]
    shapes = {name: (4,) if name.endswith("norm.weight") else (96, 8) for name in names(written)}
    return infer(header_of(shapes), {"model_type": written.model_type} | (written.config or {}))


@pytest.mark.parametrize("key", ON_DISK)
def test_roles(key: str) -> None:
    """Every tensor has the role that its authors gave it."""
    places = layout(key).places
    assert {name: str(place.role) for name, place in places.items()} == names(ON_DISK[key])


@pytest.mark.parametrize("key", ON_DISK)
def test_blocks(key: str) -> None:
    """Blocks are counted, experts within them are not; depth runs over the blocks that the hidden state passes."""
    found, stack = layout(key), ON_DISK[key].stack
    assert found.stacks[stack] == (BLOCKS + 1 if key == "deepseek_v3" else BLOCKS)
    for name, place in found.places.items():
        if name.startswith(f"{stack}."):
            block = int(name.removeprefix(f"{stack}.").partition(".")[0])
            assert (place.block, place.depth) == (block, min(1.0, block / (BLOCKS - 1)))
        elif place.block is None:
            before = str(place.role).startswith("embedding") or "slopes" in name
            assert place.depth == (0.0 if before else 1.0), name


@pytest.mark.parametrize("key", ON_DISK)
def test_tokens(key: str) -> None:
    """Embeddings and heads, those of prediction layers too, have a row for each token; nothing else has."""
    found = layout(key)
    wanted = {name for name, role in names(ON_DISK[key]).items() if role in ("embedding.word", "head.word")}
    assert found.vocabulary.keys() == wanted
