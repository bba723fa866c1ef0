"""Inputs as vocabularies see them: a tokenizer, and the tensors that have a row for each of its tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from eutectic.checkpoint.config_changes import SPECIAL
from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.spec import TensorSpec
from eutectic.errors import MismatchError
from eutectic.layout.families import configs
from eutectic.layout.infer import infer
from eutectic.layout.layout import Layout
from eutectic.tokens.tokenizer import Tokenizer, read_tokenizer


@dataclass(frozen=True)
class Party:
    """One input: its tokenizer, its vocabulary tensors, and the numbers that the output's tokens have in it."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    layout: Layout
    called: tuple[str, ...]

    @cached_property
    def rows(self) -> int:
        """Rows of its word embedding; tokens beyond have none."""
        header, axes = self.checkpoint.source.header, self.layout.vocabulary
        sizes = [header[name].shape[axis] for name, axis in axes.items() if _is_main(header[name], self.tokenizer)]
        if not sizes:
            raise MismatchError(f"{self.checkpoint.reference}: no tensor has a row for each of its tokens")
        return min(sizes)

    def axis(self, name: str) -> int | None:
        """The axis of a tensor that its tokens number; None when they do not."""
        axis = self.layout.vocabulary.get(name)
        return axis if axis is not None and _is_main(self.checkpoint.source.header[name], self.tokenizer) else None


def _is_main(spec: TensorSpec, tokenizer: Tokenizer) -> bool:
    """Whether a tensor's rows can be these tokens: an image codebook in the same model has others, and fewer."""
    return max(spec.shape[0], spec.shape[-1] if spec.shape[0] == 1 else 0) * 2 >= len(tokenizer.tokens)


def special_numbers(owner: Party, ids: Mapping[str, int]) -> dict[str, Any]:
    """Returns the numbers of the special tokens as the owner's config and tokenizer name them, in the output's ids."""
    tokenizer = owner.tokenizer
    named: dict[str, Any] = {f"{role}_id": ids[token] for role, token in tokenizer.roles.items() if token in ids}
    texts = {number: token for token, number in tokenizer.tokens.items()}
    for part in configs(owner.checkpoint.config):
        for key, value in part.items():
            numbers = value if isinstance(value, list) else [value]
            if SPECIAL.fullmatch(key) and all(texts.get(number) in ids for number in numbers):
                new = [ids[texts[number]] for number in numbers]
                named[key] = new if isinstance(value, list) else new[0]
    return named


def party_of(checkpoint: Checkpoint, called: tuple[str, ...]) -> Party:
    """Reads an input's tokenizer and layout; `called` are the names that a recipe may give it.

    Raises:
        CheckpointError: when it has no tokenizer that can be read.
    """
    tokenizer = read_tokenizer(checkpoint.folder, checkpoint.reference)
    layout = infer(checkpoint.source.header, checkpoint.config)
    return Party(checkpoint, tokenizer, layout, called)
