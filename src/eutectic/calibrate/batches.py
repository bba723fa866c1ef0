"""Samples as a model takes them: tokenised, padded, processed, in batches with masks of what counts."""

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eutectic.calibrate.data import LABELS, Sample, Samples
from eutectic.calibrate.extras import load
from eutectic.checkpoint.source import Checkpoint
from eutectic.errors import CalibrationError
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.gradients import NO_LABEL

#: Files that decide what a text or an image becomes.
PROCESSING = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "spiece.model", "sentencepiece.bpe.model",
    "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
#: Inputs that are padded along their tokens, each with its padding.
_PADDED = {"input_ids": None, "attention_mask": 0, "token_type_ids": 0, "position_ids": 0, "decoder_input_ids": None,
           "decoder_attention_mask": 0, LABELS: NO_LABEL}  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Some samples as a model takes them.

    Attributes:
        inputs: by the names of its `forward`.
        masks: (samples, tokens), which tokens count, of each sequence; none when all do.
        labels: one a sample, or (samples, tokens); None without labels.
        size: samples.
    """

    inputs: Mapping[str, Tensor]
    masks: tuple[Tensor, ...]
    labels: Tensor | None
    size: int

    def one(self, at: int) -> "Batch":
        """Returns one sample of it."""
        part = slice(at, at + 1)
        labels = None if self.labels is None else self.labels[part]
        return Batch({k: v[part] for k, v in self.inputs.items()}, tuple(m[part] for m in self.masks), labels, 1)


def drawn(total: int, count: int, seed: int, task: str, step: int) -> list[int]:
    """Returns which samples a step shows, without repetition; a function of seed, task and step alone."""
    return random.Random(f"{seed} {task} {step}").sample(range(total), min(count, total))


class Processor:
    """Turns samples into batches, through a model's own tokenizer and image processor.

    Args:
        model: whose.
        base: where an adapter's are, when its own folder has none.
        max_length: tokens a text is cut to.
    """

    def __init__(self, model: Checkpoint, base: Checkpoint | None, max_length: int) -> None:
        folders = [each.folder for each in (model, base) if each is not None and each.folder is not None]
        self.reference = model.reference
        self.folder: Path | None = next((f for f in folders if any((f / n).exists() for n in PROCESSING)), None)
        self._max_length = max_length
        self._tokenizer: Any = None
        self._images: Any = None

    def digest(self) -> str:
        """A digest of the files that decide what samples become."""
        digest = hashlib.sha256()
        for name in PROCESSING:
            if self.folder is not None and (self.folder / name).is_file():
                digest.update(name.encode() + b"\0" + hashlib.sha256((self.folder / name).read_bytes()).digest())
        return digest.hexdigest()

    def batches(self, samples: Samples, size: int) -> Iterator[Batch]:
        """Yields batches of at most `size` samples, in order.

        Raises:
            CalibrationError: when a sample cannot be processed.
        """
        for start in range(0, len(samples.rows), size):
            yield self.batch(samples.rows[start : start + size], samples.reference)

    def batch(self, rows: Sequence[Sample], where: str) -> Batch:
        """Returns some samples as one batch."""
        inputs: list[dict[str, Any]] = [self._inputs(row, where) for row in rows]
        if len({frozenset(each) for each in inputs}) > 1:
            raise CalibrationError(f"{where}: expected samples of one kind, found texts, images or inputs mixed")
        stacked, masks = _stack(inputs, self._padding(), where)
        labels = stacked.pop(LABELS, None)
        own = [row.label for row in rows]
        if labels is None and all(isinstance(label, int) for label in own):
            labels = torch.tensor(own)
        elif any(isinstance(label, str) for label in own):
            raise CalibrationError(f"{where}: expected labels that are numbers of classes, found {own[0]!r}")
        if labels is None and "input_ids" in stacked:
            known = stacked.get("attention_mask", torch.ones_like(stacked["input_ids"])).bool()
            labels = stacked["input_ids"].masked_fill(~known, NO_LABEL)  # a language model's: the next token
        return Batch(stacked, masks, labels, len(rows))

    def _padding(self) -> int:
        token = getattr(self._tokenizer, "pad_token_id", None)
        return int(token) if isinstance(token, int) else 0

    def _inputs(self, row: Sample, where: str) -> dict[str, Any]:
        if row.inputs is not None:
            return {name: torch.from_numpy(np.array(array)) for name, array in row.inputs.items()}
        found: dict[str, Any] = {}
        if row.text is not None:
            encoded = self._tokens()(row.text, truncation=True, max_length=self._max_length)
            found |= {name: torch.tensor(value) for name, value in encoded.items() if name in _PADDED}
            if not len(found.get("input_ids", ())):
                raise CalibrationError(f"{where}: expected text with tokens in it, found {row.text[:40]!r}")
        if row.image is not None:
            pixels = self._pixels()(images=_opened(row.image, where), return_tensors="np")
            found |= {name: torch.from_numpy(np.asarray(value)[0]) for name, value in pixels.items()}
        return found

    def _tokens(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = self._load("AutoTokenizer", "a tokenizer for texts")
        return self._tokenizer

    def _pixels(self) -> Any:
        if self._images is None:
            self._images = self._load("AutoImageProcessor", "an image processor for images")
        return self._images

    def _load(self, kind: str, what: str) -> Any:
        transformers = load("transformers", f"{self.reference}: reading samples")
        if self.folder is None:
            raise CalibrationError(f"{self.reference}: expected {what} in its folder or the base's, found none")
        try:
            return getattr(transformers, kind).from_pretrained(str(self.folder))
        except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CalibrationError(f"{self.folder}: expected {what}, found none that loads: {reason}") from error


def _opened(image: Any, where: str) -> Any:
    """An image in colours: from a file, or as Pillow opened it."""
    if hasattr(image, "convert"):
        return image.convert("RGB")
    pillow = load("PIL.Image", f"{where}: reading images")
    try:
        with pillow.open(image) as opened:
            return opened.convert("RGB")
    except OSError as error:
        raise CalibrationError(f"{image}: expected an image file, found {error}") from error


def _stack(rows: list[dict[str, Any]], padding: int, where: str) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
    """Stacks samples, padding what has tokens; returns the masks of what is no padding."""
    stacked: dict[str, Tensor] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name in _PADDED and values[0].dim() == 1:
            fill = padding if _PADDED[name] is None else _PADDED[name]
            stacked[name] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=float(fill or 0))
        elif len({value.shape for value in values}) > 1:
            shapes = ", ".join(sorted({str(list(value.shape)) for value in values}))
            raise CalibrationError(f"{where}: {name}: expected inputs of one shape, found {shapes}")
        else:
            stacked[name] = torch.stack(values)
    for ids, mask in (("input_ids", "attention_mask"), ("decoder_input_ids", "decoder_attention_mask")):
        lengths = [len(row[ids]) for row in rows] if ids in stacked and stacked[ids].dim() == 2 else []
        if lengths and mask not in stacked and len(set(lengths)) > 1:
            width = stacked[ids].shape[1]
            stacked[mask] = (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).long()
    names = ("attention_mask", "decoder_attention_mask")
    masks = tuple(stacked[name].bool() for name in names if name in stacked and stacked[name].dim() == 2)
    return stacked, masks
