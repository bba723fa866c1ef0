"""Tiny Llama folders with real tokenizers of every kind, trained by the `tokenizers` library."""

import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # transformers' own deprecations are no concern of these tests
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ENGLISH = ("the cat sat on the mat", "a cat and a rat ran to the hat", "he sat there and she ran")
SEA = ("birds sing songs over the sea", "new waves bring the wind over the bay", "a bird sang in the evening")
HIDDEN = 16


def byte_level(texts: Sequence[str], special: Sequence[str], size: int = 320) -> Tokenizer:
    """Returns a byte-level BPE tokenizer, as GPT-2 and Llama 3 have."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_repeated(texts), trainer)
    if special:
        first = special[0]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", pair=f"{first} $A $B", special_tokens=[(first, tokenizer.token_to_id(first))]
        )
    return tokenizer


def word_piece(texts: Sequence[str], size: int = 80) -> Tokenizer:
    """Returns a WordPiece tokenizer, as BERT has."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(_repeated(texts), trainer)
    cls, sep = ((token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.BertProcessing(sep, cls)
    return tokenizer


def unigram(texts: Sequence[str], size: int = 80) -> Tokenizer:
    """Returns a Unigram tokenizer with word marks, as T5 has."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(_repeated(texts), trainer)
    return tokenizer


def _repeated(texts: Sequence[str]) -> Iterator[str]:
    for _ in range(20):
        yield from texts


def write_llama(
    folder: Path,
    tokenizer: Tokenizer,
    seed: int,
    *,
    roles: dict[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
    tied: bool = False,
    hidden: int = HIDDEN,
    extra_rows: int = 0,
    template: str | None = None,
) -> Path:
    """Writes a one-block Llama with this tokenizer; the blocks of equal widths differ little between seeds."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **(roles or {}))
    fast.chat_template = template
    ids = {f"{role}_id": fast.convert_tokens_to_ids(token) for role, token in (roles or {}).items()}
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size() + extra_rows,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        **({"bos_token_id": None, "eos_token_id": None, "pad_token_id": None} | ids),
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).to(dtype)
    model.generation_config.eos_token_id = config.eos_token_id
    model.generation_config.bos_token_id = config.bos_token_id
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def read_json(path: Path) -> dict[str, object]:
    """Returns a JSON file's content."""
    found: dict[str, object] = json.loads(path.read_text())
    return found
