"""Small transformers models in folders, with tokenizers, made on the spot; and the data to show them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = [f"w{number}" for number in range(60)]


def tokenizer(folder: Path, words: Sequence[str] = WORDS) -> None:
    """Writes a tokenizer of whole words."""
    vocabulary = {word: at for at, word in enumerate(["[PAD]", "[UNK]", *words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)


def config(kind: str, **changes: Any) -> Any:
    """Returns a small config of a family."""
    made: dict[str, Any] = {
        "bert": lambda: transformers.BertConfig(
            vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
        ),
        "llama": lambda: transformers.LlamaConfig(
            vocab_size=64,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=24,
        ),
        "gpt2": lambda: transformers.GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32),
        "t5": lambda: transformers.T5Config(vocab_size=64, d_model=16, d_ff=24, num_layers=2, num_heads=2, d_kv=8),
        "vit": lambda: transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4
        ),
    }
    found = made[kind]()
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def save(folder: Path, settings: Any, kind: str, seed: int, *, near: Path | None = None, words: bool = True) -> Path:
    """Writes a model of random weights, or of another's weights with a little noise."""
    torch.manual_seed(0)
    settings.architectures = [kind]
    model = getattr(transformers, kind)(settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if near is not None:
            model.load_state_dict(getattr(transformers, kind).from_pretrained(near).state_dict())
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    if words:
        tokenizer(folder)
    return folder


def family(folder: Path, kind: str, settings: Any, n: int = 2, **how: Any) -> tuple[Path, list[Path]]:
    """Writes a base and n experts near it."""
    base = save(folder / "base", settings, kind, 1, **how)
    return base, [save(folder / f"expert{k}", settings, kind, 2 + k, near=base, **how) for k in range(n)]


def texts(path: Path, count: int = 12, seed: int = 0, labels: int | None = None) -> Path:
    """Writes a JSONL of random words; sentences differ in length."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(count):
        length = 3 + number % 5
        chosen = torch.randint(len(WORDS), (length,), generator=generator).tolist()
        row: dict[str, Any] = {"text": " ".join(WORDS[at] for at in chosen)}
        if labels is not None:
            row["label"] = number % labels
        rows.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arrays(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Writes ready inputs."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path
