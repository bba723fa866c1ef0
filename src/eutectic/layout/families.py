"""Architectures as data: what `families/*.toml` say of a model type that its tensor names cannot."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

from eutectic.layout.roles import Role


@dataclass(frozen=True)
class Family:
    """What is known of some model types.

    Attributes:
        model_types: as config.json says them.
        roles: pairs of a glob on the tensor name and the role of what it matches.
        behind: globs on names of tensors that stand behind the blocks though they sound otherwise.
        tied: whether the head is the word embedding when the config does not say.
    """

    model_types: frozenset[str]
    roles: tuple[tuple[str, Role], ...] = ()
    tied: bool | None = None
    behind: tuple[str, ...] = ()


@cache
def families() -> tuple[Family, ...]:
    """Reads the packaged tables, in the order of their file names."""
    found: list[Family] = []
    for path in sorted((files("eutectic.layout") / "families").iterdir(), key=lambda path: path.name):
        if not path.name.endswith(".toml"):
            continue
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["family"]:
            roles = tuple((pattern, Role(role)) for pattern, role in entry.get("roles", {}).items())
            behind = tuple(entry.get("behind", ()))
            found.append(Family(frozenset(entry["model_types"]), roles, entry.get("tied"), behind))
    return tuple(found)


def configs(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Returns a config and the configs nested in it (`text_config`, `vision_config` ...), outermost first."""
    inner = [value for key, value in config.items() if key.endswith(("_config", "encoder", "decoder"))]
    nested = [part for value in inner if isinstance(value, Mapping) for part in configs(value)]
    return (config, *nested)


def families_of(config: Mapping[str, Any]) -> tuple[Family, ...]:
    """Returns the families that the config's model types, outer and nested, belong to."""
    types = {str(part["model_type"]) for part in configs(config) if "model_type" in part}
    return tuple(family for family in families() if family.model_types & types)


def family_role(name: str, known: tuple[Family, ...]) -> Role | None:
    """Returns the role the families give to a name, None when they say nothing."""
    return next((role for f in known for pattern, role in f.roles if fnmatchcase(name, pattern)), None)


def is_behind(name: str, known: tuple[Family, ...]) -> bool:
    """Returns whether the families say that a tensor stands behind the blocks."""
    return any(fnmatchcase(name, pattern) for family in known for pattern in family.behind)


def tied_words(config: Mapping[str, Any]) -> bool | None:
    """Returns whether head and word embedding are one tensor, None when neither config nor family says."""
    for part in configs(config):
        said = part.get("tie_word_embeddings")
        if isinstance(said, bool):
            return said
    return next((family.tied for family in families_of(config) if family.tied is not None), None)
