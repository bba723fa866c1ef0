"""mergekit's command line: the flags that mean something here, those that need not be said, and one that is refused."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eutectic.errors import RecipeError

_SIZES = {"k": 10**3, "m": 10**6, "b": 10**9}

#: Flags without effect, by whether they take a value; why is said in docs/mergekit.md.
_IDLE: dict[str, bool] = {
    "--allow-crimes": False,
    "--no-allow-crimes": False,
    "--transformers-cache": True,
    "--lora-merge-cache": True,
    "--lora-merge-dtype": True,
    "--low-cpu-memory": False,
    "--no-low-cpu-memory": False,
    "--copy-tokenizer": False,
    "--clone-tensors": False,
    "--no-clone-tensors": False,
    "--no-trust-remote-code": False,
    "--no-lazy-unpickle": False,
    "--write-model-card": False,
    "--no-write-model-card": False,
    "--safe-serialization": False,
    "--read-to-gpu": False,
    "--no-read-to-gpu": False,
    "--multi-gpu": False,
    "--no-multi-gpu": False,
    "--async-write": False,
    "--no-async-write": False,
    "--write-threads": True,
    "--no-cuda": False,
    "--no-quiet": False,
    "--verbose": False,
    "-v": False,
    "-vv": False,
    "-vvv": False,
    "--lazy": False,
    "--no-lazy": False,
    "--intermediate-dir": True,
    "-I": True,
    "--tensor-union": False,
}
#: Flags with a meaning, by whether they take a value.
_MEANT: dict[str, bool] = {
    "--random-seed": True,
    "--out-shard-size": True,
    "--unsafe-truncate-embeddings": False,
    "--no-unsafe-truncate-embeddings": False,
    "--no-copy-tokenizer": False,
    "--lazy-unpickle": False,
    "--trust-remote-code": False,
    "--no-safe-serialization": False,
    "--tensor-intersection": False,
}
_REFUSED = {
    "--no-safe-serialization": "weights are written as safetensors only, since pickles run code; leave it out",
    "--tensor-intersection": "tensors that some models lack are merged from those that have them; leave it out",
}


@dataclass
class Flags:
    """What flags ask for, as keys of a recipe, and what is to be said of them."""

    recipe: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def is_flag(argument: str) -> bool:
    """Whether an argument of a command line is a flag of mergekit's, which ours does not know."""
    return argument.partition("=")[0] in _IDLE.keys() | _MEANT.keys()


def takes_value(argument: str) -> bool:
    """Whether the flag is followed by its value."""
    return "=" not in argument and (_IDLE | _MEANT)[argument]


def read_flags(arguments: Sequence[str]) -> Flags:
    """Reads flags; what is no flag (the files of a whole command line) is passed over.

    Raises:
        RecipeError: when one is refused, or its value cannot be read.
    """
    found, idle = Flags(), []
    rest = iter(arguments)
    for argument in rest:
        if not is_flag(argument):
            continue
        name, _, value = argument.partition("=")
        if takes_value(argument):
            value = next(rest, "")
        if name in _REFUSED:
            raise RecipeError(f"{name}: {_REFUSED[name]}")
        if name in _IDLE:
            idle.append(name)
        else:
            _mean(name, value, found)
    if idle:
        found.remarks.append(f"without effect here: {', '.join(dict.fromkeys(idle))}")
    return found


def _mean(name: str, value: str, found: Flags) -> None:
    if name == "--random-seed":
        if not value.isascii() or not value.isdigit() or len(value) > 18:
            raise RecipeError(f"--random-seed: expected a whole number, found {value[:60]!r}")
        found.recipe["seed"] = int(value)
    elif name == "--out-shard-size":
        found.output["shard_size"] = _size(value)
    elif name == "--unsafe-truncate-embeddings":
        found.recipe["vocabulary"] = "truncate"
    elif name == "--lazy-unpickle":
        found.recipe["pickles"] = True
    elif name == "--trust-remote-code":
        found.remarks.append("--trust-remote-code is ignored: no code of a model is run, and none is needed")
    elif name == "--no-copy-tokenizer":
        found.remarks.append("--no-copy-tokenizer is ignored: the output is a complete model; remove the files after")


def _size(text: str) -> int:
    """Reads a number of bytes, such as 5B; mergekit's help calls it a number of parameters."""
    number, unit = (text[:-1], text[-1:].lower()) if text[-1:].lower() in _SIZES else (text, "")
    if not number.isascii() or not number.isdigit() or len(number) > 18 or int(number) == 0:
        raise RecipeError(f"--out-shard-size: expected bytes such as 500M or 5B, found {text[:60]!r}")
    return int(number) * _SIZES.get(unit, 1)
