"""A tokenizer as its files say it: plain JSON in, plain JSON out, no tokenizer library.

`tokenizer.json` holds a model (BPE, WordPiece, Unigram, WordLevel) with its vocabulary, and added tokens that are found
in text before the model sees it. Everything else in it (normaliser, splitter, decoder) is kept as it is.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eutectic.errors import CheckpointError
from eutectic.layout.vocabulary import parsed_tokens, read_json, read_tokens

#: Named tokens of tokenizer_config.json, in the order in which one that has several names is known.
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
#: Files that say in another form what tokenizer.json says, and would contradict it once that is rewritten.
STALE = ("vocab.json", "merges.txt", "vocab.txt", "vocab.bpe", "encoder.json", "added_tokens.json", "*.model", "*.spm")

Key = tuple[object, ...]


@dataclass(frozen=True)
class Tokenizer:
    """One model's tokenizer.

    Attributes:
        name: how messages call the model.
        folder: where its files lie.
        tokens: ids by token, added tokens included.
        parsed: tokenizer.json, or None where only an older form is there.
        config: tokenizer_config.json, or an empty mapping.
    """

    name: str
    folder: Path
    tokens: Mapping[str, int]
    parsed: Mapping[str, Any] | None
    config: Mapping[str, Any]

    @cached_property
    def added(self) -> dict[str, Mapping[str, Any]]:
        """The added tokens' entries by token, in their order."""
        listed = (self.parsed or {}).get("added_tokens") or []
        return {entry["content"]: entry for entry in listed if isinstance(entry, dict) and "content" in entry}

    @cached_property
    def roles(self) -> dict[str, str]:
        """The token of each named role (`bos_token` ...)."""
        found = {}
        for role in ROLES:
            said = self.config.get(role)
            token = said.get("content") if isinstance(said, dict) else said
            if isinstance(token, str):
                found[role] = token
        return found

    @cached_property
    def fixed(self) -> frozenset[str]:
        """Tokens that its own files speak of, without which it would not load."""
        parsed = self.parsed or {}
        named = {*self.added, *self.roles.values()}
        model = parsed.get("model") or {}
        unknown = model.get("unk_id")
        named |= {str(model["unk_token"])} if model.get("unk_token") else set()
        named |= {token for token, number in self.tokens.items() if number == unknown}
        named |= {token for part in _processors(parsed) for token, _ in _spoken(part)}
        return frozenset(token for token in named if token in self.tokens)

    @property
    def kind(self) -> str:
        """`BPE`, `WordPiece`, `Unigram`, `WordLevel`; `vocabulary` when only a list of tokens is known."""
        model = (self.parsed or {}).get("model") or {}
        return str(model.get("type") or ("BPE" if "merges" in model else "vocabulary"))

    def keys(self, match: str) -> dict[Key, int]:
        """Returns ids by what counts as the same token: its text, or (`normalised`) its place in a word and meaning."""
        if match == "exact":
            return {(token,): number for token, number in self.tokens.items()}
        ids: dict[Key, int] = {}
        for token in sorted(self.tokens, key=lambda token: self.tokens[token]):
            ids.setdefault(self.key(token, match), self.tokens[token])
        return ids

    def key(self, token: str, match: str) -> Key:
        """Returns what makes a token the same as another tokenizer's."""
        if match == "exact":
            return (token,)
        role = next((role for role, named in self.roles.items() if named == token), None)
        if role is not None:
            return (role,)
        if token in self.added:
            return (token,)
        if self.kind == "WordPiece":
            return (False, token[2:]) if token.startswith("##") else (True, token)
        if self._bytes and (text := _from_bytes(token)) is not None:
            return text[:1] == " ", text[1:] if text[:1] == " " else text
        return token[:1] in "▁Ġ", token[1:] if token[:1] in ("▁", "Ġ") else token

    def text(self, token: str) -> str:
        """Returns what a token stands for in text, with the space that a word mark means."""
        if token in self.added or token in self.roles.values():
            return token
        starts, text = self.key(token, "normalised")
        return f" {text}" if starts else str(text)

    @cached_property
    def _bytes(self) -> bool:
        """Whether its pieces spell bytes."""
        parts = json.dumps([(self.parsed or {}).get(part) for part in ("pre_tokenizer", "decoder")])
        return '"ByteLevel"' in parts


def read_tokenizer(folder: Path | None, name: str) -> Tokenizer:
    """Reads the tokenizer of a model folder.

    Raises:
        CheckpointError: when there is none, only one that is not read (sentencepiece), or a file is broken.
    """
    parsed = read_json(folder / "tokenizer.json") if folder and (folder / "tokenizer.json").is_file() else None
    tokens = parsed_tokens(parsed) if parsed is not None else read_tokens(folder) if folder is not None else None
    if folder is None or tokens is None:
        spm = sorted(path.name for path in folder.glob("*.model")) if folder is not None else []
        if spm:
            raise CheckpointError(
                f"{name}: its tokens are only in {spm[0]}, which is not read; write tokenizer.json once with "
                "`transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`"
            )
        raise CheckpointError(f"{name}: expected a tokenizer.json beside its weights, found none; add its tokenizer")
    path = folder / "tokenizer_config.json"
    return Tokenizer(name, folder, tokens, parsed, read_json(path) if path.is_file() else {})


def rewritten(owner: Tokenizer, vocabulary: Sequence[str | None], others: Sequence[Tokenizer] = ()) -> dict[str, bytes]:
    """Returns the files of a tokenizer with another vocabulary.

    Pieces keep what makes them: the owner's merges come first, then those of `others` whose parts and result are in the
    vocabulary, so text that the owner's merges split is merged further at most. All tokens, added ones too, are put
    into the model's vocabulary: an added token that is not there would be numbered anew when the file is loaded.

    Args:
        owner: whose splitter, normaliser and named tokens stay.
        vocabulary: tokens by id; None where an id is not used.
        others: tokenizers that the new tokens come from, in order; a token that is none's becomes an added one.

    Raises:
        CheckpointError: when the owner has no tokenizer.json, or cannot express the vocabulary.
    """
    if owner.parsed is None:
        raise CheckpointError(
            f"{owner.name}: expected tokenizer.json, which another vocabulary can be written into, found its older "
            "form; write it once with `transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`"
        )
    ids = {token: number for number, token in enumerate(vocabulary) if token is not None}
    added = _added(owner, others, ids)
    bulky = {"model", "added_tokens"}  # hundreds of thousands of entries, which are replaced anyway
    parsed: dict[str, Any] = {key: each if key in bulky else deepcopy(each) for key, each in owner.parsed.items()}
    parsed["added_tokens"] = added
    model = parsed["model"] = dict(owner.parsed["model"])
    if owner.kind == "Unigram":
        model["vocab"], model["unk_id"] = _scored(owner, others, vocabulary, ids)
    else:
        model["vocab"] = ids
    if owner.kind == "BPE":
        model["merges"] = _merges(owner, others, ids)
    for part in _processors(parsed):
        _renumber(part, ids)
    padding = parsed.get("padding")
    if isinstance(padding, dict) and padding.get("pad_token") in ids:
        padding["pad_id"] = ids[padding["pad_token"]]
    files = {"tokenizer.json": parsed}
    if owner.config:
        config = deepcopy(dict(owner.config))
        if "added_tokens_decoder" in config:
            config["added_tokens_decoder"] = {
                str(entry["id"]): {key: value for key, value in entry.items() if key != "id"} for entry in added
            }
        files["tokenizer_config.json"] = config
    # Without line breaks, which would make writing a large vocabulary take seconds.
    return {name: (json.dumps(each, ensure_ascii=False) + "\n").encode() for name, each in files.items()}


def _added(owner: Tokenizer, others: Sequence[Tokenizer], ids: Mapping[str, int]) -> list[dict[str, Any]]:
    """Returns the added tokens by id: each as the first tokenizer that adds it says."""
    entries: dict[str, dict[str, Any]] = {}
    for tokenizer in (owner, *others):
        for token, entry in tokenizer.added.items():
            plain = token in owner.tokens and token not in owner.added and not entry.get("special")
            if token in ids and not plain:
                entries.setdefault(token, {**entry, "id": ids[token]})
    known = {token for tokenizer in (owner, *others) for token in tokenizer.tokens}
    shape = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    for token in ids.keys() - known:
        entries[token] = {"id": ids[token], "content": token, **shape}
    return sorted(entries.values(), key=lambda entry: int(entry["id"]))


def _merges(owner: Tokenizer, others: Sequence[Tokenizer], ids: Mapping[str, int]) -> list[Any]:
    """Returns the merges whose parts and result are in the vocabulary, in the form the owner writes them."""
    written = ((owner.parsed or {}).get("model") or {}).get("merges") or []
    found: dict[tuple[str, str], None] = {}
    for tokenizer in (owner, *(each for each in others if each.kind == "BPE")):
        for pair in _pairs(tokenizer):
            if pair[0] in ids and pair[1] in ids and "".join(pair) in ids:
                found.setdefault(pair)
    text = all(isinstance(entry, str) for entry in written) and not any(" " in part for pair in found for part in pair)
    return [" ".join(pair) if text else list(pair) for pair in found]


def _pairs(tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    for entry in ((tokenizer.parsed or {}).get("model") or {}).get("merges") or []:
        first, _, second = entry.partition(" ") if isinstance(entry, str) else (entry[0], "", entry[1])
        yield first, second


def _scored(
    owner: Tokenizer, others: Sequence[Tokenizer], vocabulary: Sequence[str | None], ids: Mapping[str, int]
) -> tuple[list[list[Any]], int | None]:
    """Returns Unigram's pieces with their log-probabilities, by id, and the id of the unknown token."""
    scores: dict[str, float] = {}
    for tokenizer in (owner, *(each for each in others if each.kind == "Unigram")):
        for token, score in ((tokenizer.parsed or {}).get("model") or {}).get("vocab") or []:
            scores.setdefault(token, score)
    lowest = min(scores.values(), default=0.0) - 10.0  # a token without a score is found as an added one or not at all
    gap = next((number for number, token in enumerate(vocabulary) if token is None), None)
    if gap is not None:
        raise CheckpointError(f"{owner.name}: a Unigram tokenizer numbers its tokens without gaps, found none of {gap}")
    unknown = ((owner.parsed or {}).get("model") or {}).get("unk_id")
    name = next((token for token, number in owner.tokens.items() if number == unknown), None)
    return [[token, scores.get(str(token), lowest)] for token in vocabulary], ids.get(name) if name else None


def _processors(parsed: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields what puts special tokens around a text, members of sequences each."""
    part = parsed.get("post_processor")
    if isinstance(part, dict):
        yield part
        yield from (each for each in part.get("processors") or [] if isinstance(each, dict))


def _spoken(part: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yields the tokens and ids that a processor names."""
    for entry in (part.get("special_tokens") or {}).values() if isinstance(part.get("special_tokens"), dict) else ():
        yield from zip(entry.get("tokens") or [], entry.get("ids") or [], strict=False)
    for name in ("sep", "cls"):
        if isinstance(part.get(name), list) and len(part[name]) == 2:
            yield part[name][0], part[name][1]


def _renumber(part: dict[str, Any], ids: Mapping[str, int]) -> None:
    if isinstance(part.get("special_tokens"), dict):
        for entry in part["special_tokens"].values():
            entry["ids"] = [ids.get(token, number) for token, number in zip(entry["tokens"], entry["ids"], strict=True)]
    for name in ("sep", "cls"):
        if isinstance(part.get(name), list) and len(part[name]) == 2:
            part[name] = [part[name][0], ids.get(part[name][0], part[name][1])]


def _byte_table() -> dict[str, int]:
    """Byte-level pieces write printable bytes of Latin-1 as themselves, and the others from U+0100 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(rest)}


_BYTES = _byte_table()


def _from_bytes(token: str) -> str | None:
    """Returns the text of a byte-level piece; None when it ends inside a character, or is none."""
    if any(character not in _BYTES for character in token):
        return None
    try:
        return bytes(_BYTES[character] for character in token).decode()
    except UnicodeDecodeError:
        return None
