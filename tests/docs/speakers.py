"""Models with tokenizers, for pages that speak of vocabularies; apart from the others, since they load transformers."""

from pathlib import Path

from tests.make.vocabularies import ENGLISH, SEA, byte_level, write_llama


def write_speakers(folder: Path) -> None:
    """Writes models with tokenizers, which pages on vocabularies speak of: `chat`, `poems`, `songs`, and `wide`."""
    chat, poems = byte_level(ENGLISH, ["<s>", "</s>"], 322), byte_level(SEA, ["<bos>", "<eos>", "<tool>"])
    ours, theirs = {"bos_token": "<s>", "eos_token": "</s>"}, {"bos_token": "<bos>", "eos_token": "<eos>"}
    write_llama(folder / "chat", chat, 0, roles=ours)
    write_llama(folder / "poems", poems, 1, roles=theirs)
    write_llama(folder / "songs", poems, 2, roles=theirs)
    write_llama(folder / "wide", poems, 3, roles=theirs, hidden=32)
