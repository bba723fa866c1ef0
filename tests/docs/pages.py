"""Reads the code blocks of a page, and builds the folder its commands run in."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.make.checkpoints import write_file, write_model

ROOT = Path(__file__).parent.parent.parent
#: Pages whose code blocks are run, in order, each page in a fresh folder.
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
#: Shell commands that are run. Others (pip, make, git) are about this machine and are not.
RUN = re.compile(r"\s*eutectic ")

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\S+\.(?:yaml|yml|json))\n")

HIDDEN, VOCABULARY, BLOCKS = 16, 32, 2


@dataclass(frozen=True)
class Block:
    """One code block: its language, its text, and the line of the page it starts at."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that a block shows: named by a comment in its first line."""
        found = _FILE.match(self.text)
        return found[1] if found else None

    @property
    def commands(self) -> list[str]:
        """The lines of a shell block that are run, continued lines joined, comments dropped."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.split("  #")[0].strip() for line in lines if RUN.match(line)]


def blocks(page: Path) -> Iterator[Block]:
    """Yields the code blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        yield Block(found[1], found[2], text.count("\n", 0, found.start()) + 1)


def llama(seed: int) -> dict[str, torch.Tensor]:
    """Returns the tensors of a two-block Llama, the same up to small differences that `seed` draws."""
    common, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    square, wide = (HIDDEN, HIDDEN), (2 * HIDDEN, HIDDEN)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for block in range(BLOCKS):
        at = f"model.layers.{block}"
        shapes |= {f"{at}.self_attn.{name}_proj.weight": square for name in "qkvo"}
        shapes |= {f"{at}.mlp.{name}_proj.weight": wide for name in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj.weight"] = wide[::-1]
        shapes |= {f"{at}.{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}
    drawn = {
        name: torch.randn(shape, generator=common) + 0.05 * torch.randn(shape, generator=own)
        for name, shape in shapes.items()
    }
    return {name: tensor.to(torch.bfloat16) for name, tensor in drawn.items()}


def write_tokenizer(folder: Path) -> None:
    """Writes a tokenizer of the words w0 to w29."""
    words = {word: at for at, word in enumerate(["[PAD]", "[UNK]", *(f"w{at}" for at in range(VOCABULARY - 2))])}
    made = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(made))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_models(folder: Path) -> None:
    """Writes the models that pages speak of: `base`, `code`, `maths`, and the adapter `style-lora`."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_attention_heads": 2,
        "num_hidden_layers": BLOCKS,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
    }
    for seed, name in enumerate(("base", "code", "maths")):
        write_model(folder / name, llama(seed), config)
        write_tokenizer(folder / name)
    rows = [" ".join(f"w{(row * step) % 30}" for step in range(3, 9)) for row in range(8)]
    (folder / "texts.jsonl").write_text("".join(f'{{"text": "{row}", "label": 0}}\n' for row in rows))
    adapter = folder / "style-lora"
    draw = torch.Generator().manual_seed(9)
    factors = {
        f"base_model.model.model.layers.{block}.self_attn.q_proj.lora_{side}.weight": torch.randn(shape, generator=draw)
        for block in range(BLOCKS)
        for side, shape in (("A", (4, HIDDEN)), ("B", (HIDDEN, 4)))
    }
    write_file(adapter / "adapter_model.safetensors", factors)
    (adapter / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}'
    )
