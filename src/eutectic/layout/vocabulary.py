"""Tokens by name: what a folder's tokenizer files say, and how two vocabularies differ; no tokenizer library."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eutectic.errors import CheckpointError
from eutectic.layout.families import configs


def read_tokens(folder: Path) -> Mapping[str, int] | None:
    """Returns token ids by token, from tokenizer.json, else vocab.json, else vocab.txt, with the added tokens.

    None when the folder has none of them (a sentencepiece model alone is not read).

    Raises:
        CheckpointError: when a file is there and cannot be read.
    """
    tokens: dict[str, int]
    if (folder / "tokenizer.json").exists():
        return parsed_tokens(read_json(folder / "tokenizer.json"))
    if (folder / "vocab.json").exists():
        tokens = _numbered(read_json(folder / "vocab.json"))
    elif (folder / "vocab.txt").exists():
        tokens = {line: number for number, line in enumerate(_text(folder / "vocab.txt").splitlines())}
    else:
        return None
    if (folder / "added_tokens.json").exists():
        tokens |= _numbered(read_json(folder / "added_tokens.json"))
    return tokens


def parsed_tokens(parsed: Mapping[str, Any]) -> dict[str, int]:
    """Returns token ids by token from what tokenizer.json holds."""
    tokens = _model_tokens(parsed.get("model"))
    for entry in _list(parsed.get("added_tokens")):
        if isinstance(entry, dict) and isinstance(entry.get("content"), str) and isinstance(entry.get("id"), int):
            tokens[entry["content"]] = entry["id"]
    return tokens


def vocabulary_size(config: Mapping[str, Any]) -> int | None:
    """Returns the number of embedding rows the config states, its own or its text model's; None when it states none."""
    sizes = (part.get("vocab_size") for part in configs(config))
    return next((size for size in sizes if isinstance(size, int)), None)


@dataclass(frozen=True)
class Difference:
    """How a vocabulary differs from another.

    Attributes:
        sizes: number of tokens of both.
        only_first: tokens that the second lacks, by id.
        only_second: tokens that the first lacks, by id.
        moved: tokens of both whose ids differ.
    """

    sizes: tuple[int, int]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    moved: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.only_first or self.only_second or self.moved)


def compare_tokens(first: Mapping[str, int], second: Mapping[str, int]) -> Difference:
    """Returns what two vocabularies do not share."""
    return Difference(
        (len(first), len(second)),
        tuple(sorted(first.keys() - second.keys(), key=lambda token: (first[token], token))),
        tuple(sorted(second.keys() - first.keys(), key=lambda token: (second[token], token))),
        tuple(sorted((t for t in first.keys() & second.keys() if first[t] != second[t]), key=lambda t: (first[t], t))),
    )


def token_sentences(
    names: Sequence[str], vocabularies: Sequence[Mapping[str, int] | None], limit: int = 3
) -> list[str]:
    """Says how each vocabulary differs from the first that could be read, naming up to `limit` tokens of each kind."""
    known = [(name, tokens) for name, tokens in zip(names, vocabularies, strict=True) if tokens is not None]
    sentences: list[str] = []
    for name, tokens in known[1:]:
        reference, expected = known[0]
        difference = compare_tokens(expected, tokens)
        parts = [
            f"{label} {_some(listed, limit)}"
            for label, listed in (
                (f"only in {reference}:", difference.only_first),
                (f"only in {name}:", difference.only_second),
                ("other ids:", difference.moved),
            )
            if listed
        ]
        if parts:
            sizes = f"{difference.sizes[0]} tokens in {reference}, {difference.sizes[1]} in {name}"
            sentences.append(f"the tokenizers differ: {sizes}; {'; '.join(parts)}")
    return sentences


def _some(tokens: Sequence[str], limit: int) -> str:
    shown = ", ".join(repr(token) for token in tokens[:limit])
    return shown if len(tokens) <= limit else f"{shown} and {len(tokens) - limit} more"


def _model_tokens(model: Any) -> dict[str, int]:
    """Reads `model.vocab` of tokenizer.json: `{token: id}`, or `[[token, score], ...]` in the order of ids."""
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, list):
        return {str(entry[0]): number for number, entry in enumerate(vocab) if isinstance(entry, list) and entry}
    return _numbered(vocab) if isinstance(vocab, dict) else {}


def _numbered(parsed: Mapping[str, Any]) -> dict[str, int]:
    return {token: number for token, number in parsed.items() if isinstance(number, int)}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: expected a text file, found {error}; replace it or remove it") from error


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object a JSON file holds.

    Raises:
        CheckpointError: when it holds none.
    """
    try:
        parsed = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, found {error}; replace it or remove it") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(parsed).__name__}; replace or remove it")
    return parsed
