"""Adapters as kohya's trainers write them: one file, names flattened with underscores, alpha beside each pair.

    lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight   A, (r, d_in, ...)
    lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight     B, (d_out, r, ...)
    lora_unet_down_blocks_0_attentions_0_proj_in.alpha              a number; the scale is alpha / r, or 1 without it

Which dots the underscores were is not in the file: the base's names say so. An adapter of several models (a U-Net and
its text encoders) is one of each of them; against one base the others' updates have no place, and are refused.
"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from eutectic.adapters.config import LoraConfig
from eutectic.adapters.names import Module, Names
from eutectic.adapters.stored import read_wide
from eutectic.checkpoint.source import Source
from eutectic.errors import CheckpointError, MismatchError

_PART = re.compile(r"(?P<module>.+)\.(?P<part>lora_down\.weight|lora_up\.weight|alpha)")
_COMPONENT = re.compile(r"lora_(?:unet|te\d?|transformer|prior|llm)_")
#: Tensors of kohya's other kinds of adapters, and why these are not products of two factors.
_OTHERS = {
    "hada_": "LoHa's update is a Hadamard product of two low-rank matrices",
    "lokr_": "LoKr's update is a Kronecker product",
    "lora_mid": "LoCon's Tucker form has a third factor",
    "dora_scale": "DoRA rescales the base's weights",
    ".diff": "it holds differences of whole tensors",
    "oft_": "OFT rotates the base's weights",
    "ia3_": "IA3 scales activations",
}


def is_kohya(names: Iterable[str]) -> bool:
    """Whether a file's tensors are named so."""
    return any(_PART.fullmatch(name) and not name.endswith("weight_alpha") for name in names)


def read_kohya(file: Source, base: Iterable[str]) -> tuple[Names, LoraConfig]:
    """Returns the factors of a file by the base's names of their modules, and what scales them. Reads the alphas.

    Args:
        file: the adapter's file.
        base: the names of the base's tensors.

    Raises:
        CheckpointError: when a factor lacks its partner, naming schemes are mixed, or the adapter is of another kind.
        MismatchError: when the base has no such module, or several.
    """
    parts = _parts(file)
    resolved = _Flat(base)
    modules: dict[str, Module] = {}
    scales: dict[str, tuple[int, float]] = {}
    for flat, found in parts.items():
        for part, other in (("lora_down.weight", "lora_up.weight"), ("lora_up.weight", "lora_down.weight")):
            if part not in found:
                raise CheckpointError(
                    f"{file.name}: module '{flat}' has no {part} to go with its {other if other in found else 'alpha'}"
                )
        name = resolved.find(_COMPONENT.sub("", flat, count=1), flat, file.name)
        if name in modules:
            raise CheckpointError(f"{file.name}: '{flat}' and another module both fit '{name}' of the base")
        down, up = found["lora_down.weight"], found["lora_up.weight"]
        rank = file.header[down].shape[0] if file.header[down].shape else 0
        modules[name] = Module(name, down, up)
        scales[name] = (rank, _alpha(file, found["alpha"]) if "alpha" in found else float(rank))
    raw = {"kohya": {name: list(scale) for name, scale in scales.items()}}
    config = LoraConfig(file.name, None, 1, 1.0, {}, {}, False, False, False, (), raw, by_name=MappingProxyType(scales))
    return Names(modules, {}), config


def _parts(file: Source) -> dict[str, dict[str, str]]:
    parts: dict[str, dict[str, str]] = {}
    for key in file.header:
        match = _PART.fullmatch(key)
        if match is None:
            reason = next((why for mark, why in _OTHERS.items() if mark in key), None)
            if reason is not None:
                raise CheckpointError(f"{file.name}: tensor '{key}': {reason}; merge it with its own tool first")
            raise CheckpointError(
                f"{file.name}: mixes two ways of naming tensors: '{key}' beside kohya's lora_down and lora_up"
            )
        parts.setdefault(match["module"], {})[match["part"]] = key
    return parts


def _alpha(file: Source, key: str) -> float:
    spec = file.header[key]
    if spec.numel != 1 or not spec.dtype.mergeable:
        raise CheckpointError(f"{file.name}: expected one number in '{key}', found {spec.dtype} {list(spec.shape)}")
    value = float(read_wide(file, key, 0, 1)[0])
    if not abs(value) < 1e30:
        raise CheckpointError(f"{file.name}: expected a finite number in '{key}', found {value}")
    return value


class _Flat:
    """Finds the module of the base that a name with underscores for dots means.

    Args:
        names: every tensor of the base.
    """

    def __init__(self, names: Iterable[str]) -> None:
        weights = (name.removesuffix(".weight") for name in names if name.endswith(".weight"))
        self._modules: Mapping[str, list[str]] = {}
        found: dict[str, list[str]] = {}
        for module in weights:
            found.setdefault(module.replace(".", "_"), []).append(module)
        self._modules = found

    def find(self, flat: str, key: str, where: str) -> str:
        """Returns the module called so, or whose name ends so."""
        found = self._modules.get(flat) or [
            module for name, modules in self._modules.items() if name.endswith(f"_{flat}") for module in modules
        ]
        if len(found) != 1:
            said = f"any of {', '.join(found[:5])}" if found else "no module"
            raise MismatchError(
                f"{where}: '{key}' names {said} of the base; take the base this adapter was trained on, and of an "
                "adapter of several models the part that belongs to it"
            )
        return found[0]
