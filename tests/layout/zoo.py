"""Names and shapes of tiny models as transformers builds them, on the meta device: no weights, no files."""

import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

from eutectic.checkpoint.spec import DTYPES, TensorSpec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # transformers' own deprecations are no concern of these tests
    import transformers as tf

_SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
_SIDES: dict[str, Any] = {
    "vocab_size": 96,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
_GROUPED: dict[str, Any] = _SIZES | {"num_key_value_heads": 2}
_GPT: dict[str, Any] = {"vocab_size": 96, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 16}
_EXPERTS: dict[str, Any] = _GROUPED | {"num_experts": 4, "moe_intermediate_size": 16}
_DEEPSEEK: dict[str, Any] = _SIZES | {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
}
_DISTIL: dict[str, Any] = {"vocab_size": 96, "dim": 32, "hidden_dim": 64, "n_layers": 3, "n_heads": 4}
_FALCON: dict[str, Any] = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
_OPT: dict[str, Any] = _FALCON | {"ffn_dim": 64, "max_position_embeddings": 16, "word_embed_proj_dim": 16}
_T5: dict[str, Any] = {
    "vocab_size": 96,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
}
_VISION_25: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "num_heads": 4,
    "patch_size": 8,
    "intermediate_size": 64,
    "out_hidden_size": 32,
    "fullatt_block_indexes": [1],
}
_VISION_3: dict[str, Any] = _VISION_25 | {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
_QWEN_VISION: dict[str, Any] = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 8}

MODELS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llama": lambda: (tf.LlamaForCausalLM, tf.LlamaConfig(**_GROUPED)),
    "mistral": lambda: (tf.MistralForCausalLM, tf.MistralConfig(**_GROUPED)),
    "qwen2": lambda: (tf.Qwen2ForCausalLM, tf.Qwen2Config(**_GROUPED, tie_word_embeddings=True)),
    "qwen3": lambda: (tf.Qwen3ForCausalLM, tf.Qwen3Config(**_GROUPED)),
    "qwen2_moe": lambda: (tf.Qwen2MoeForCausalLM, tf.Qwen2MoeConfig(**_EXPERTS, shared_expert_intermediate_size=16)),
    "qwen3_moe": lambda: (tf.Qwen3MoeForCausalLM, tf.Qwen3MoeConfig(**_EXPERTS)),
    "mixtral": lambda: (tf.MixtralForCausalLM, tf.MixtralConfig(**_GROUPED, num_local_experts=4)),
    "gemma2": lambda: (tf.Gemma2ForCausalLM, tf.Gemma2Config(**_GROUPED)),
    "phi3": lambda: (tf.Phi3ForCausalLM, tf.Phi3Config(**_GROUPED, pad_token_id=0, bos_token_id=1, eos_token_id=2)),
    "gpt2": lambda: (tf.GPT2LMHeadModel, tf.GPT2Config(**_GPT)),
    "gpt2_bare": lambda: (tf.GPT2Model, tf.GPT2Config(**_GPT)),
    "gpt_neox": lambda: (tf.GPTNeoXForCausalLM, tf.GPTNeoXConfig(**_SIZES)),
    "bloom": lambda: (tf.BloomForCausalLM, tf.BloomConfig(vocab_size=96, hidden_size=32, n_layer=3, n_head=4)),
    "falcon": lambda: (
        tf.FalconForCausalLM,
        tf.FalconConfig(**_FALCON, new_decoder_architecture=True, num_kv_heads=2),
    ),
    "opt": lambda: (tf.OPTForCausalLM, tf.OPTConfig(**_OPT)),
    "bert": lambda: (tf.BertForMaskedLM, tf.BertConfig(**_SIZES)),
    "bert_classifier": lambda: (tf.BertForSequenceClassification, tf.BertConfig(**_SIZES)),
    "roberta": lambda: (tf.RobertaForMaskedLM, tf.RobertaConfig(**_SIZES)),
    "distilbert": lambda: (tf.DistilBertForMaskedLM, tf.DistilBertConfig(**_DISTIL)),
    "modernbert": lambda: (tf.ModernBertForMaskedLM, tf.ModernBertConfig(**_SIZES, pad_token_id=0)),
    "t5": lambda: (tf.T5ForConditionalGeneration, tf.T5Config(**_T5)),
    "t5_gated": lambda: (tf.T5ForConditionalGeneration, tf.T5Config(**_T5, feed_forward_proj="gated-gelu")),
    "bart": lambda: (tf.BartForConditionalGeneration, tf.BartConfig(**_SIDES, max_position_embeddings=16)),
    "whisper": lambda: (tf.WhisperForConditionalGeneration, tf.WhisperConfig(**_SIDES, num_mel_bins=8)),
    "vit": lambda: (tf.ViTForImageClassification, tf.ViTConfig(**_VISION)),
    "clip": lambda: (
        tf.CLIPModel,
        tf.CLIPConfig(text_config=dict(_SIZES, eos_token_id=2), vision_config=dict(_VISION), projection_dim=16),
    ),
    "siglip": lambda: (
        tf.SiglipModel,
        tf.SiglipConfig(text_config=dict(_SIZES), vision_config=dict(_VISION)),
    ),
    "deepseek_v3": lambda: (tf.DeepseekV3ForCausalLM, tf.DeepseekV3Config(**_DEEPSEEK)),
    "llava": lambda: (
        tf.LlavaForConditionalGeneration,
        tf.LlavaConfig(text_config=tf.LlamaConfig(**_GROUPED), vision_config=tf.CLIPVisionConfig(**_VISION)),
    ),
    "qwen2_vl": lambda: (
        tf.Qwen2VLForConditionalGeneration,
        tf.Qwen2VLConfig(text_config=dict(_GROUPED), vision_config=dict(_QWEN_VISION)),
    ),
    "mamba": lambda: (tf.MambaForCausalLM, tf.MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=3)),
    "apertus": lambda: (tf.ApertusForCausalLM, tf.ApertusConfig(**_GROUPED)),
    "arcee": lambda: (tf.ArceeForCausalLM, tf.ArceeConfig(**_GROUPED)),
    "cohere": lambda: (tf.CohereForCausalLM, tf.CohereConfig(**_GROUPED)),
    "cohere2": lambda: (tf.Cohere2ForCausalLM, tf.Cohere2Config(**_GROUPED)),
    "gemma": lambda: (tf.GemmaForCausalLM, tf.GemmaConfig(**_GROUPED)),
    "gemma3": lambda: (tf.Gemma3ForCausalLM, tf.Gemma3TextConfig(**_GROUPED)),
    "glm4": lambda: (tf.Glm4ForCausalLM, tf.Glm4Config(**_GROUPED, pad_token_id=0)),
    "glm4_moe": lambda: (
        tf.Glm4MoeForCausalLM,
        tf.Glm4MoeConfig(
            **_GROUPED,
            n_routed_experts=4,
            n_shared_experts=1,
            moe_intermediate_size=16,
            first_k_dense_replace=1,
            use_qk_norm=True,
        ),
    ),
    "gpt2_classifier": lambda: (tf.GPT2ForSequenceClassification, tf.GPT2Config(**_GPT)),
    "gpt_bigcode": lambda: (tf.GPTBigCodeForCausalLM, tf.GPTBigCodeConfig(**_GPT)),
    "granite": lambda: (tf.GraniteForCausalLM, tf.GraniteConfig(**_GROUPED)),
    "granitemoehybrid": lambda: (
        tf.GraniteMoeHybridForCausalLM,
        tf.GraniteMoeHybridConfig(
            **_GROUPED,
            num_local_experts=4,
            shared_intermediate_size=16,
            layer_types=["mamba", "attention", "mamba"],
            mamba_n_heads=8,
            mamba_d_head=8,
            mamba_d_state=4,
            mamba_n_groups=1,
        ),
    ),
    "lfm2": lambda: (tf.Lfm2ForCausalLM, tf.Lfm2Config(**_GROUPED, layer_types=["conv", "full_attention", "conv"])),
    "llama_classifier": lambda: (tf.LlamaForSequenceClassification, tf.LlamaConfig(**_GROUPED)),
    "olmo": lambda: (tf.OlmoForCausalLM, tf.OlmoConfig(**_GROUPED)),
    "olmo2": lambda: (tf.Olmo2ForCausalLM, tf.Olmo2Config(**_GROUPED)),
    "phi": lambda: (tf.PhiForCausalLM, tf.PhiConfig(**_GROUPED)),
    "stablelm": lambda: (tf.StableLmForCausalLM, tf.StableLmConfig(**_GROUPED)),
    "starcoder2": lambda: (tf.Starcoder2ForCausalLM, tf.Starcoder2Config(**_GROUPED)),
    "afmoe": lambda: (
        tf.AfmoeForCausalLM,
        tf.AfmoeConfig(**_GROUPED, num_experts=4, moe_intermediate_size=16, num_dense_layers=1),
    ),
    "gptj": lambda: (tf.GPTJForCausalLM, tf.GPTJConfig(**_GPT, rotary_dim=4)),
    "gpt_neo": lambda: (
        tf.GPTNeoForCausalLM,
        tf.GPTNeoConfig(
            vocab_size=96,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            max_position_embeddings=16,
        ),
    ),
    "falcon_mqa": lambda: (
        tf.FalconForCausalLM,
        tf.FalconConfig(vocab_size=96, hidden_size=32, num_hidden_layers=3, num_attention_heads=4),
    ),
    "mpt": lambda: (tf.MptForCausalLM, tf.MptConfig(vocab_size=96, d_model=32, n_layers=3, n_heads=4)),
    "mamba2": lambda: (
        tf.Mamba2ForCausalLM,
        tf.Mamba2Config(
            vocab_size=96, hidden_size=32, num_hidden_layers=3, num_heads=8, head_dim=8, state_size=4, n_groups=1
        ),
    ),
    "falcon_mamba": lambda: (
        tf.FalconMambaForCausalLM,
        tf.FalconMambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=3),
    ),
    "jamba": lambda: (
        tf.JambaForCausalLM,
        tf.JambaConfig(
            **(_GROUPED | {"num_hidden_layers": 4}),
            num_experts=4,
            attn_layer_period=2,
            attn_layer_offset=1,
            expert_layer_period=2,
            expert_layer_offset=1,
            use_mamba_kernels=False,
            mamba_dt_rank=4,
            mamba_d_state=4,
        ),
    ),
    "bamba": lambda: (
        tf.BambaForCausalLM,
        tf.BambaConfig(**_GROUPED, attn_layer_indices=[1], mamba_n_heads=8, mamba_d_head=8, mamba_d_state=4),
    ),
    "falcon_h1": lambda: (
        tf.FalconH1ForCausalLM,
        tf.FalconH1Config(**_GROUPED, mamba_d_ssm=64, mamba_n_heads=8, mamba_d_head=8, mamba_d_state=4),
    ),
    "nemotron_h": lambda: (
        tf.NemotronHForCausalLM,
        tf.NemotronHConfig(
            vocab_size=96,
            hidden_size=32,
            intermediate_size=64,
            layers_block_type=["mamba", "attention", "moe"],
            num_attention_heads=4,
            num_key_value_heads=2,
            mamba_num_heads=8,
            mamba_head_dim=8,
            ssm_state_size=4,
            n_groups=1,
            n_routed_experts=4,
            moe_intermediate_size=16,
        ),
    ),
    "nemotron": lambda: (tf.NemotronForCausalLM, tf.NemotronConfig(**_GROUPED)),
    "rwkv": lambda: (
        tf.RwkvForCausalLM,
        tf.RwkvConfig(vocab_size=96, hidden_size=32, num_hidden_layers=3, attention_hidden_size=32),
    ),
    "qwen3_next": lambda: (
        tf.Qwen3NextForCausalLM,
        tf.Qwen3NextConfig(
            **_EXPERTS,
            shared_expert_intermediate_size=16,
            layer_types=["linear_attention", "linear_attention", "full_attention"],
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
        ),
    ),
    "qwen3_5": lambda: (
        tf.Qwen3_5ForCausalLM,
        tf.Qwen3_5TextConfig(
            **_GROUPED,
            layer_types=["linear_attention", "linear_attention", "full_attention"],
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
        ),
    ),
    "deepseek_v2": lambda: (tf.DeepseekV2ForCausalLM, tf.DeepseekV2Config(**(_DEEPSEEK | {"q_lora_rank": None}))),
    "gpt_oss": lambda: (tf.GptOssForCausalLM, tf.GptOssConfig(**_GROUPED, num_local_experts=4)),
    "olmoe": lambda: (tf.OlmoeForCausalLM, tf.OlmoeConfig(**_GROUPED, num_experts=4)),
    "phimoe": lambda: (tf.PhimoeForCausalLM, tf.PhimoeConfig(**_GROUPED, num_local_experts=4)),
    "granitemoe": lambda: (tf.GraniteMoeForCausalLM, tf.GraniteMoeConfig(**_GROUPED, num_local_experts=4)),
    "ernie4_5_moe": lambda: (
        tf.Ernie4_5_MoeForCausalLM,
        tf.Ernie4_5_MoeConfig(
            **_GROUPED, moe_num_experts=4, moe_intermediate_size=16, moe_num_shared_experts=1, moe_layer_start_index=1
        ),
    ),
    "minimax_m2": lambda: (tf.MiniMaxM2ForCausalLM, tf.MiniMaxM2Config(**_GROUPED, num_local_experts=4)),
    "exaone4": lambda: (tf.Exaone4ForCausalLM, tf.Exaone4Config(**_GROUPED)),
    "smollm3": lambda: (tf.SmolLM3ForCausalLM, tf.SmolLM3Config(**_GROUPED, pad_token_id=0)),
    "bert_bare": lambda: (tf.BertModel, tf.BertConfig(**_SIZES)),
    "bert_tokens": lambda: (tf.BertForTokenClassification, tf.BertConfig(**_SIZES)),
    "roberta_classifier": lambda: (tf.RobertaForSequenceClassification, tf.RobertaConfig(**_SIZES)),
    "roberta_bare": lambda: (tf.RobertaModel, tf.RobertaConfig(**_SIZES)),
    "distilbert_classifier": lambda: (tf.DistilBertForSequenceClassification, tf.DistilBertConfig(**_DISTIL)),
    "deberta_v2": lambda: (
        tf.DebertaV2ForMaskedLM,
        tf.DebertaV2Config(
            **_SIZES,
            relative_attention=True,
            position_buckets=8,
            max_relative_positions=16,
            conv_kernel_size=3,
            pos_att_type=["p2c", "c2p"],
        ),
    ),
    "deberta": lambda: (
        tf.DebertaForMaskedLM,
        tf.DebertaConfig(**_SIZES, relative_attention=True, max_relative_positions=16, pos_att_type=["p2c", "c2p"]),
    ),
    "electra": lambda: (tf.ElectraForMaskedLM, tf.ElectraConfig(**_SIZES, embedding_size=16)),
    "albert": lambda: (tf.AlbertForMaskedLM, tf.AlbertConfig(**_SIZES, embedding_size=16)),
    "mistral3": lambda: (
        tf.Mistral3ForConditionalGeneration,
        tf.Mistral3Config(
            text_config=tf.MistralConfig(**_GROUPED),
            vision_config=tf.PixtralVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=4,
                num_attention_heads=4,
                image_size=16,
                patch_size=8,
            ),
        ),
    ),
    "llama4": lambda: (
        tf.Llama4ForConditionalGeneration,
        tf.Llama4Config(
            text_config=dict(
                _GROUPED, intermediate_size_mlp=64, num_local_experts=4, interleave_moe_layer_step=2, head_dim=8
            ),
            vision_config={
                "hidden_size": 32,
                "intermediate_size": 128,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "image_size": 16,
                "patch_size": 8,
                "vision_output_dim": 32,
                "projector_input_dim": 32,
                "projector_output_dim": 32,
            },
        ),
    ),
    "gemma3_vlm": lambda: (
        tf.Gemma3ForConditionalGeneration,
        tf.Gemma3Config(text_config=dict(_GROUPED), vision_config=dict(_VISION), mm_tokens_per_image=4),
    ),
    "gemma4": lambda: (tf.Gemma4ForCausalLM, tf.Gemma4TextConfig(**_GROUPED)),
    "qwen2_5_vl": lambda: (
        tf.Qwen2_5_VLForConditionalGeneration,
        tf.Qwen2_5_VLConfig(text_config=dict(_GROUPED), vision_config=_VISION_25),
    ),
    "qwen3_vl": lambda: (
        tf.Qwen3VLForConditionalGeneration,
        tf.Qwen3VLConfig(text_config=dict(_GROUPED), vision_config=_VISION_3),
    ),
    "qwen3_vl_moe": lambda: (
        tf.Qwen3VLMoeForConditionalGeneration,
        tf.Qwen3VLMoeConfig(text_config=dict(_EXPERTS), vision_config=_VISION_3),
    ),
    "llava_next": lambda: (
        tf.LlavaNextForConditionalGeneration,
        tf.LlavaNextConfig(text_config=tf.LlamaConfig(**_GROUPED), vision_config=tf.CLIPVisionConfig(**_VISION)),
    ),
    "internvl": lambda: (
        tf.InternVLForConditionalGeneration,
        tf.InternVLConfig(
            text_config=tf.Qwen2Config(**_GROUPED),
            vision_config=tf.InternVLVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=4,
                num_attention_heads=4,
                image_size=[16, 16],
                patch_size=[8, 8],
            ),
        ),
    ),
    "mllama": lambda: (
        tf.MllamaForConditionalGeneration,
        tf.MllamaConfig(
            text_config=dict(_GROUPED, cross_attention_layers=[1], pad_token_id=0),
            vision_config={
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 4,
                "num_global_layers": 2,
                "attention_heads": 4,
                "image_size": 16,
                "patch_size": 8,
                "vision_output_dim": 64,
                "intermediate_layers_indices": [1],
            },
        ),
    ),
    "mt5": lambda: (tf.MT5ForConditionalGeneration, tf.MT5Config(**_T5)),
    "pegasus": lambda: (tf.PegasusForConditionalGeneration, tf.PegasusConfig(**_SIDES, max_position_embeddings=16)),
    "xlm_roberta": lambda: (tf.XLMRobertaForMaskedLM, tf.XLMRobertaConfig(**_SIZES)),
    "mpnet": lambda: (tf.MPNetForMaskedLM, tf.MPNetConfig(**_SIZES)),
}

_TYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.bool: "BOOL"}


def header_of(shapes: Mapping[str, tuple[int, ...]], dtype: str = "F32") -> dict[str, TensorSpec]:
    """Returns a header of tensors of one type."""
    return {name: TensorSpec(name, shape, DTYPES[dtype]) for name, shape in shapes.items()}


@cache
def _model(key: str) -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make, config = MODELS[key]()
        with torch.device("meta"):
            return make(config), config


def shared(key: str) -> list[list[str]]:
    """Returns the groups of names that are one tensor in a model, as transformers built it."""
    groups: dict[int, list[str]] = {}
    model, _ = _model(key)
    for name, value in model.state_dict(keep_vars=True).items():
        groups.setdefault(id(value), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def build(key: str) -> tuple[dict[str, TensorSpec], dict[str, Any]]:
    """Returns header and config of a tiny model."""
    model, config = _model(key)
    tensors = model.state_dict()
    header = {name: TensorSpec(name, tuple(t.shape), DTYPES[_TYPES[t.dtype]]) for name, t in tensors.items()}
    return header, config.to_dict()
