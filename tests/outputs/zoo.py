"""Tiny random models of many families, as transformers makes and saves them, and inputs to run them on."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers as hf

SMALL: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 24}
WORDS: dict[str, Any] = {**SMALL, "vocab_size": 40, "max_position_embeddings": 32, "num_key_value_heads": 2}
VISION: dict[str, Any] = {**SMALL, "image_size": 8, "patch_size": 4}


def _llama(**more: Any) -> Any:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**WORDS, **more))


def _clip() -> Any:
    text = {**SMALL, "vocab_size": 40, "max_position_embeddings": 32, "eos_token_id": 2}
    return hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))


def _llava() -> Any:
    vision = hf.CLIPVisionConfig(**VISION, projection_dim=8)
    text = hf.LlamaConfig(**WORDS)
    return hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=39, image_seq_length=4)
    )


def _t5() -> Any:
    config = hf.T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return hf.T5ForConditionalGeneration(config)


MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: _llama(tie_word_embeddings=False),
    "llama tied": lambda: _llama(tie_word_embeddings=True),
    "llama bfloat16": lambda: _llama(tie_word_embeddings=False).to(torch.bfloat16),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**WORDS, tie_word_embeddings=True)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**WORDS, head_dim=8)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=2, n_head=2)),
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**SMALL, vocab_size=40, max_position_embeddings=32)),
    "t5": _t5,
    "vit": lambda: hf.ViTForImageClassification(hf.ViTConfig(**VISION, num_labels=3)),
    "clip": _clip,
    "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**WORDS, num_local_experts=4, num_experts_per_tok=2)),
    "llava": _llava,
}


def inputs(name: str) -> Mapping[str, torch.Tensor]:
    """Returns what a model of the zoo is run on."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 38, (2, 9), generator=draw)
    pixels = torch.rand((2, 3, 8, 8), generator=draw)
    if name == "vit":
        return {"pixel_values": pixels}
    if name == "clip":
        return {"input_ids": tokens, "pixel_values": pixels}
    if name == "llava":
        tokens[:, 1:5] = 39
        return {"input_ids": tokens, "pixel_values": pixels}
    if name == "t5":
        return {"input_ids": tokens, "decoder_input_ids": tokens[:, :4]}
    return {"input_ids": tokens}


def save_family(name: str, folder: Path) -> list[Any]:
    """Saves a base and two fine-tunes as `base`, `one` and `two`; returns the models."""
    torch.manual_seed(len(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = MODELS[name]().eval()
        base.save_pretrained(folder / "base")
        family = [base]
        for seed, member in enumerate(("one", "two")):
            tuned, _ = load(type(base), folder / "base")
            draw = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for value in tuned.parameters():
                    value += (0.1 * torch.randn(value.shape, generator=draw)).to(value.dtype)
            tuned.save_pretrained(folder / member)
            family.append(tuned)
    return family


def load(kind: Any, folder: Path) -> tuple[Any, Mapping[str, Any]]:
    """Loads a folder in its own dtype; returns the model and what transformers says of its keys."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on the environment, none on the folder
        model, said = kind.from_pretrained(folder, output_loading_info=True, dtype="auto")
    return model.eval(), said
