"""What an output's config.json must say differently from its donor's: element type, blocks, number of tokens."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eutectic.errors import CheckpointError, MismatchError

_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth")
_SIDES = {"encoder": ("encoder_layers", "num_layers"), "decoder": ("decoder_layers", "num_decoder_layers")}
#: Lists of block numbers, unlike `layer_types`, which has an entry for each block.
_NUMBERED = ("mlp_only_layers", "cross_attention_layers", "full_attn_idxs", "attn_layer_indices", "moe_layers")
#: What says the kind of each block, in the configs that say their number by nothing else.
_KINDS = ("layers_block_type", "layer_types")
#: Lists with an entry for something else, which may happen to be as many as the blocks.
_NOT_BY_BLOCK = re.compile(r"architectures|.*_ids?|.*labels?|.*size|mrope_section|.*tokens?")
#: Configs nested for a part of the model, by a word in the stack's name.
_INNER = {"vision": "vision_config", "visual": "vision_config", "audio": "audio_config", "qformer": "qformer_config"}
#: Keys that hold the number of a token, or several.
SPECIAL = re.compile(r"\w+_token_(id|ids|index)")
_ELEMENT_TYPES = ("dtype", "torch_dtype")


@dataclass(frozen=True)
class ConfigChanges:
    """What config.json must say.

    Attributes:
        dtype: the element type of the output as torch calls it (`bfloat16`); None keeps what the donor says.
        blocks: by stack prefix (`model.layers`), the donor's block that each output block is like, in order.
        vocab_size: number of embedding rows; None keeps what the donor says.
        numbers: the new number of each token by its old one; what is not in it has no token in the output. Empty when
            no number changes.
        named: numbers of special tokens by key, which win over the donor's.
        dequantised: the output's weights are plain floats though the donor's were not.
    """

    dtype: str | None = None
    blocks: Mapping[str, Sequence[int]] = field(default_factory=dict)
    vocab_size: int | None = None
    numbers: Mapping[int, int] = field(default_factory=dict)
    named: Mapping[str, Any] = field(default_factory=dict)
    dequantised: bool = False


def changed_config(config: Any, changes: ConfigChanges, where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the donor's config with the changes, and what was changed, in words.

    Raises:
        CheckpointError: when the config is no JSON object.
        MismatchError: when it has no key for a number of blocks, or cannot express their order.
    """
    if not isinstance(config, dict):
        raise CheckpointError(f"{where}: expected a JSON object, found {type(config).__name__}; replace the file")
    config = copy.deepcopy(config)
    said: list[str] = []
    for part in _parts(config):
        part.pop("_name_or_path", None)
        if changes.dequantised and part.pop("quantization_config", None) is not None:
            said.append("no quantization_config")
    if changes.dtype:
        _set_dtype(config, changes.dtype)
        said.append(f"dtype {changes.dtype}")
    for stack, order in changes.blocks.items():
        said.append(_set_blocks(config, stack, order, where))
    if changes.vocab_size is not None:
        part = next((part for part in _parts(config) if "vocab_size" in part), config)
        part["vocab_size"] = changes.vocab_size
        said.append(f"vocab_size {changes.vocab_size}")
    said += renumber_tokens(config, changes)
    return config, tuple(said)


def renumber_tokens(config: dict[str, Any], changes: ConfigChanges) -> list[str]:
    """Gives the token numbers of a config their new values, in place, and returns what was changed, in words."""
    said: list[str] = []
    if not changes.numbers and not changes.named:
        return said
    for part in _parts(config):
        for key, value in part.items():
            if not SPECIAL.fullmatch(key) or value is None:
                continue
            if key in changes.named:
                new = changes.named[key]
            elif isinstance(value, list):
                new = [changes.numbers[number] for number in value if number in changes.numbers]
            else:
                new = changes.numbers.get(value)
            if new != value:
                part[key] = new
                said.append(f"{key} {new}")
    return said


def _parts(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields a config and the configs nested in it, outermost first."""
    yield config
    for key, value in config.items():
        if isinstance(value, dict) and key.endswith(("_config", "encoder", "decoder")) and key != "quantization_config":
            yield from _parts(value)


def _set_dtype(config: dict[str, Any], dtype: str) -> None:
    """Sets the element type under the key the config uses; `torch_dtype`, which all versions read, if it has none."""
    for part in _parts(config):
        for key in _ELEMENT_TYPES:
            if key in part:
                part[key] = dtype
    if not any(key in config for key in _ELEMENT_TYPES):
        config["torch_dtype"] = dtype


def _set_blocks(config: dict[str, Any], stack: str, order: Sequence[int], where: str) -> str:
    part, key = _count_key(config, stack, where)
    listed = isinstance(part[key], list)
    before = len(part[key]) if listed else part[key]
    # Prediction layers (DeepSeek's MTP) stand behind the hidden ones and are counted apart.
    extra = part.get("num_nextn_predict_layers")
    hidden = [source for source in order if source < before or not extra]
    if list(order[: len(hidden)]) != hidden:
        raise MismatchError(f"{where}: expected prediction layers behind all others, found {list(order)}")
    if not listed:
        part[key] = len(hidden)
    if key == "encoder_layers" and part.get("num_hidden_layers") == before:
        part["num_hidden_layers"] = len(hidden)
    if isinstance(extra, int):
        part["num_nextn_predict_layers"] = len(order) - len(hidden)
    for name, value in part.items():
        if name in _NUMBERED and isinstance(value, list):
            part[name] = [block for block, source in enumerate(hidden) if source in value]
        elif isinstance(value, list) and len(value) == before and not _NOT_BY_BLOCK.fullmatch(name):
            if max(hidden, default=-1) >= before:
                raise MismatchError(f"{where}: {name} has {before} blocks, found block {max(hidden)} of a deeper model")
            part[name] = [value[source] for source in hidden]
    _set_dense(part, hidden, where)
    return f"{key} {len(hidden)}"


def _set_dense(part: dict[str, Any], order: Sequence[int], where: str) -> None:
    """Rewrites DeepSeek's count of leading dense blocks, which are told from the others by nothing else."""
    dense = part.get("first_k_dense_replace")
    if not isinstance(dense, int):
        return
    flags = [source < dense for source in order]
    if flags != sorted(flags, reverse=True):
        raise MismatchError(
            f"{where}: expected dense blocks before those with experts, found {list(order)}; reorder the slices"
        )
    part["first_k_dense_replace"] = sum(flags)


def _count_key(config: dict[str, Any], stack: str, where: str) -> tuple[dict[str, Any], str]:
    """Returns the part of the config that describes a stack, and its key for the number of blocks."""
    words = set(stack.replace("_", ".").split("."))
    inner = next((config_key for word, config_key in _INNER.items() if word in words), "text_config")
    part = config[inner] if isinstance(config.get(inner), dict) else config
    if "groups" in words and isinstance(part.get("num_hidden_groups"), int):
        return part, "num_hidden_groups"  # ALBERT stores groups of layers, which the model passes several times
    sides = [key for side, keys in _SIDES.items() if side in words for key in keys]
    # An encoder-decoder has a key for each side; BERT's `encoder` has the plain one.
    plain = list(_COUNTS) if not (sides and any(key in part for key in _SIDES["decoder"])) else []
    for key in [*sides, *plain]:
        if isinstance(part.get(key), int):
            return part, key
    kinds = next((key for key in _KINDS if isinstance(part.get(key), list)), None)
    if kinds is not None:
        return part, kinds
    raise MismatchError(
        f"{where}: expected a number of blocks for {stack}, found none of {', '.join([*sides, *plain])}"
    )
