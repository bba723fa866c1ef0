"""Tiny models of the Llama family as folders, written by the format's own library."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

#: Of the tiny Llama: hidden width, inner width, heads, tokens.
WIDTH, INNER, HEADS, TOKENS = 16, 28, 2, 24


def shapes(layers: int, tokens: int = TOKENS) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of a Llama of so many layers, in the file's usual order."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (tokens, WIDTH)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        found[f"{at}.input_layernorm.weight"] = (WIDTH,)
        found |= {f"{at}.self_attn.{part}_proj.weight": (WIDTH, WIDTH) for part in "qkvo"}
        found[f"{at}.post_attention_layernorm.weight"] = (WIDTH,)
        found |= {f"{at}.mlp.{part}_proj.weight": (INNER, WIDTH) for part in ("gate", "up")}
        found[f"{at}.mlp.down_proj.weight"] = (WIDTH, INNER)
    return found | {"model.norm.weight": (WIDTH,), "lm_head.weight": (tokens, WIDTH)}


def write_model(
    folder: Path,
    seed: int,
    *,
    layers: int = 4,
    dtype: torch.dtype = torch.float32,
    words: Sequence[str] | None = None,
    spread: float = 0.02,
) -> None:
    """Writes a model near the one of seed 0: its weights, config and, if `words` are given, its tokenizer.

    Rows of embeddings belong to words: a word has the same row in the model of seed 0 whatever its number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens = len(words) if words is not None else TOKENS
    first, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes(layers, TOKENS).items():
        weight = 0.2 * torch.randn(shape, generator=first)
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            weight = weight.repeat(-(-tokens // TOKENS), 1)[:tokens]
        if seed:
            weight = weight + spread * torch.randn(weight.shape, generator=own)
        weights[name] = weight.to(dtype).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "num_hidden_layers": layers,
        "vocab_size": tokens,
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    (folder / "config.json").write_text(json.dumps(config))
    if words is not None:
        _write_tokenizer(folder, words)


def _write_tokenizer(folder: Path, words: Sequence[str]) -> None:
    special = {"id": 0, "content": words[0], "single_word": False, "lstrip": False, "rstrip": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{**special, "normalized": False, "special": True}],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {word: n for n, word in enumerate(words)}, "unk_token": words[0]},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": words[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
