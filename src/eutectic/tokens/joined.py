"""Which tokens an output has, and under which numbers: deterministic, and the first tokenizer's numbers stay."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eutectic.tokens.tokenizer import Key, Tokenizer

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Joined:
    """An output's vocabulary.

    Attributes:
        owner: whose tokenizer it is made from.
        tokens: by id; None where an id is not used.
        keys: by id, what makes a token the same as another tokenizer's.
        sources: the tokenizers that pieces and added tokens were taken from, the owner's not among them.
    """

    owner: Tokenizer
    tokens: tuple[str | None, ...]
    keys: tuple[Key | None, ...]
    sources: tuple[Tokenizer, ...]

    @property
    def unchanged(self) -> bool:
        """Whether the owner's files say just these tokens."""
        return {token: number for number, token in enumerate(self.tokens) if token is not None} == self.owner.tokens

    def ids_in(self, tokenizer: Tokenizer, rows: int, match: str) -> Ids:
        """Returns each token's number in another tokenizer, -1 where it has none with a row; shape (tokens,)."""
        known = tokenizer.keys(match)
        found = [-1 if key is None else known.get(key, -1) for key in self.keys]
        ids = np.array(found, np.int32)
        ids[ids >= rows] = -1
        return ids


def join(
    kind: str,
    tokenizers: Sequence[Tokenizer],
    rows: Sequence[int],
    *,
    owner: int = 0,
    more: Iterable[str] = (),
    match: str = "exact",
) -> Joined:
    """Joins vocabularies.

    Args:
        kind: `union`: the owner's tokens under their numbers, then the others' in the order of models and numbers.
            `extended`: the same with the others' added tokens only. `intersection`: the owner's tokens that all have,
            and those its files speak of, numbered anew. `owner`: the owner's.
        tokenizers: of all models, the base's first.
        rows: how many rows each model's embedding has; a token beyond has no row and counts as absent.
        owner: whose splitter and numbers the output keeps.
        more: tokens that are added at the end if nobody has them.
        match: see `Tokenizer.keys`.
    """
    main = tokenizers[owner]
    others = [each for place, each in enumerate(tokenizers) if place != owner]
    limits = {id(each): count for each, count in zip(tokenizers, rows, strict=True)}
    own = _by_id(main.tokens, rows[owner])
    if kind == "intersection":
        known = [(each.keys(match), limits[id(each)]) for each in others]
        kept = [
            token
            for token in own
            if token is not None
            and (token in main.fixed or all(ids.get(main.key(token, match), end) < end for ids, end in known))
        ]
        own = list(kept)
    tokens: list[str | None] = list(own)
    keys: list[Key | None] = [None if token is None else main.key(token, match) for token in own]
    seen = {key for key in keys if key is not None}
    texts = {token for token in own if token is not None}
    for each in others if kind in ("union", "extended") else ():
        for token in _by_id(each.tokens, limits[id(each)]):
            if token is None or (kind == "extended" and token not in each.added) or token in texts:
                continue
            key = each.key(token, match)
            if key not in seen:
                seen.add(key)
                texts.add(token)
                tokens.append(token)
                keys.append(key)
    for token in more:
        if token not in texts:
            tokens.append(token)
            keys.append((token,))
            texts.add(token)
    return Joined(main, tuple(tokens), tuple(keys), tuple(others) if kind in ("union", "extended") else ())


def _by_id(tokens: Mapping[str, int], rows: int) -> list[str | None]:
    """Returns tokens by id up to the last that has a row."""
    named = {number: token for token, number in tokens.items() if 0 <= number < rows}
    return [named.get(number) for number in range(max(named, default=-1) + 1)]
