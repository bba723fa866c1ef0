"""Reads a layout from tensor names and config: no code per architecture, no tensor data."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from eutectic.checkpoint.spec import TensorSpec
from eutectic.layout.families import configs, families_of, family_role, is_behind, tied_words
from eutectic.layout.layout import Layout, Place
from eutectic.layout.packed import packed
from eutectic.layout.parts import Parts, role_of
from eutectic.layout.roles import Role

#: Words that authors call a list of blocks, even if some of its numbers are missing (an adapter, a part of a model).
_STACK_WORDS = frozenset(["layers", "layer", "h", "block", "blocks", "resblocks", "transformer_blocks"])
_NUMBERED = re.compile(r"\b(layers?|h|blocks?|experts)\.\d+\.")
#: Words of modules that come before the blocks.
_BEFORE = re.compile(
    r"embed|_pre\.|(^|\.)(pre_(?!classifier)|project_in|feature_projection|feature_extractor|patch_conv|conv\d*\.)",
    re.IGNORECASE,
)


def infer(header: Mapping[str, TensorSpec], config: Mapping[str, Any]) -> Layout:
    """Returns what the names of a model mean; a name that tells nothing has `Role.OTHER`, which is no error.

    Args:
        header: the tensors of one model.
        config: its parsed config.json, or an empty mapping.
    """
    roles, known = _roles(header, config), families_of(config)
    stacks = _stacks(header)
    hidden = {stack: _hidden(blocks, config) for stack, blocks in stacks.items()}
    places: dict[str, Place] = {}
    for name, role in roles.items():
        at = _block(name, stacks)
        stack, block = at if at else (None, None)
        behind = is_behind(name, known)
        depth = _outside_depth(name, role, behind) if at is None else _depth(at[1], hidden[at[0]])
        places[name] = Place(name, role, stack, block, depth)
    vocabulary = _vocabulary(header, roles)
    return Layout(places, stacks, _tied(header, places, config), vocabulary)


def _roles(header: Mapping[str, TensorSpec], config: Mapping[str, Any]) -> dict[str, Role]:
    modules = set(_prefixes(header))
    known = families_of(config)
    codes = packed(header)
    scales = {scale for beside in codes.values() for scale in beside}
    roles: dict[str, Role] = {}
    # Blocks and experts are alike: one of each name is read, which matters with a hundred thousand tensors.
    read: dict[tuple[str, str, int], Role] = {}
    for name, spec in header.items():
        alike = (_NUMBERED.sub(r"\1.#.", name), spec.dtype.kind, len(spec.shape))
        if name in scales or (name in codes and spec.dtype.kind != "code"):
            roles[name] = Role.QUANTIZATION
        elif alike in read:
            roles[name] = read[alike]
        else:
            roles[name] = read[alike] = family_role(name, known) or role_of(Parts(spec, modules.__contains__))
    return roles


def _prefixes(names: Iterable[str]) -> Iterable[str]:
    """Yields every module that holds some tensor."""
    for name in names:
        for dot in re.finditer(r"\.", name):
            yield name[: dot.start()]
        yield name


def _stacks(names: Iterable[str]) -> dict[str, int]:
    """Returns the number of blocks by prefix: the outermost numbers of a name that count from 0 without gaps."""
    numbers: dict[str, set[int]] = defaultdict(set)
    modules: dict[str, set[str]] = defaultdict(set)
    for name in names:
        found = re.search(r"\.(\d+)\.", name)
        if found:
            prefix = name[: found.start()]
            numbers[prefix].add(int(found[1]))
            modules[prefix].add(name[found.end() :].removesuffix(".weight").removesuffix(".bias"))
    stacks: dict[str, int] = {}
    for prefix, seen in numbers.items():
        named = prefix.rpartition(".")[2] in _STACK_WORDS
        # A block holds modules; the members of a bare sequence (`classifier.0.weight`) do not.
        counted = seen == set(range(len(seen))) and len(modules[prefix] - {"weight", "bias"}) > 1
        if named or counted:
            stacks[prefix] = max(seen) + 1
    return stacks


def _block(name: str, stacks: Mapping[str, int]) -> tuple[str, int] | None:
    found = re.search(r"\.(\d+)\.", name)
    if found is None or name[: found.start()] not in stacks:
        return None
    return name[: found.start()], int(found[1])


def _hidden(blocks: int, config: Mapping[str, Any]) -> int:
    """Returns how many of a stack's blocks the hidden state passes: prediction layers (DeepSeek's MTP) do not count."""
    for part in configs(config):
        hidden, extra = part.get("num_hidden_layers"), part.get("num_nextn_predict_layers")
        if isinstance(hidden, int) and isinstance(extra, int) and 0 < hidden < blocks <= hidden + extra:
            return hidden
    return blocks


def _depth(block: int, blocks: int) -> float:
    return min(1.0, block / (blocks - 1)) if blocks > 1 else 1.0


def _outside_depth(name: str, role: Role, behind: bool) -> float:
    """Returns 0 before the blocks and 1 behind them."""
    if behind or role.matches("head"):
        return 1.0
    before = role.matches("embedding") or role is Role.ATTENTION_POSITION or _BEFORE.search(name)
    return 0.0 if before else 1.0


def _vocabulary(header: Mapping[str, TensorSpec], roles: Mapping[str, Role]) -> dict[str, int]:
    """Returns the token axis of embeddings and heads; a bias stored as one row, shape (1, tokens), has it last."""
    axes: dict[str, int] = {}
    for name, role in roles.items():
        shape = header[name].shape
        if role in (Role.EMBEDDING, Role.HEAD) and shape:
            axes[name] = len(shape) - 1 if shape[0] == 1 else 0
    return axes


@dataclass(frozen=True)
class _Words:
    """The word embeddings and heads outside the blocks."""

    embeddings: tuple[str, ...]
    heads: tuple[str, ...]
    biases: tuple[str, ...]


def _words(header: Mapping[str, TensorSpec], places: Mapping[str, Place]) -> _Words:
    outside = [place for place in places.values() if place.block is None]
    heads = [place.name for place in outside if place.role is Role.HEAD]
    return _Words(
        tuple(place.name for place in outside if place.role is Role.EMBEDDING and len(header[place.name].shape) == 2),
        tuple(name for name in heads if len(header[name].shape) == 2 and header[name].shape[0] > 1),
        tuple(name for name in heads if len(header[name].shape) == 1),
    )


def nearest_embedding(head: str, embeddings: Iterable[str]) -> str | None:
    """Returns the word embedding a head shares: a decoder's first, then the one whose name has most in common."""

    def likeness(name: str) -> tuple[bool, bool, int]:
        common = next((n for n, pair in enumerate(zip(head, name, strict=False)) if pair[0] != pair[1]), len(name))
        return "decoder" in name, "shared" in name, common

    return max(embeddings, key=likeness, default=None)


def _tied(
    header: Mapping[str, TensorSpec], places: Mapping[str, Place], config: Mapping[str, Any]
) -> tuple[tuple[str, ...], ...]:
    """Returns the groups of names that are one tensor when loaded: by the config, or by how the family is built."""
    words = _words(header, places)
    groups: list[list[str]] = []
    shared = [name for name in words.embeddings if name.rpartition(".")[0].rpartition(".")[2] == "shared"]
    for name in shared:
        root = name.removesuffix("shared.weight")
        groups.append([name, *(f"{root}{side}.embed_tokens.weight" for side in ("encoder", "decoder"))])
    if tied_words(config):
        for head in words.heads:
            embedding = nearest_embedding(head, words.embeddings)
            group = next((group for group in groups if embedding in group), None)
            if group is not None:
                group.append(head)
            elif embedding is not None:
                groups.append([embedding, head])
    # `X.bias` beside `X.decoder.bias`: masked language models keep both names for one bias.
    groups += [[name, f"{name.removesuffix('bias')}decoder.bias"] for name in words.biases]
    present = ([name for name in group if name in header] for group in groups)
    same = ([name for name in group if header[name].shape == header[group[0]].shape] for group in present if group)
    return tuple(tuple(group) for group in same if len(group) > 1)
