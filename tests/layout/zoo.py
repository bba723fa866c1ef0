"""Names and shapes of tiny models as transformers builds them, on the meta device: no weights, no files."""

import warnings
from collections.abc import Callable, Mapping
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
}

_TYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.bool: "BOOL"}


def header_of(shapes: Mapping[str, tuple[int, ...]], dtype: str = "F32") -> dict[str, TensorSpec]:
    """Returns a header of tensors of one type."""
    return {name: TensorSpec(name, shape, DTYPES[dtype]) for name, shape in shapes.items()}


def build(key: str) -> tuple[dict[str, TensorSpec], dict[str, Any]]:
    """Returns header and config of a tiny model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make, config = MODELS[key]()
        with torch.device("meta"):
            model = make(config)
    tensors = model.state_dict()
    header = {name: TensorSpec(name, tuple(t.shape), DTYPES[_TYPES[t.dtype]]) for name, t in tensors.items()}
    return header, config.to_dict()
