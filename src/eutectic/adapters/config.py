"""What adapter_config.json says about the update its factors stand for, or why it cannot be read exactly."""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from eutectic.checkpoint.header import parse_json
from eutectic.errors import CheckpointError, nearest

Number = TypeVar("Number", int, float)

_LARGEST_CONFIG = 16 * 2**20

#: Adapter families whose update is not a plain product of two stored factors.
_OTHER_TYPES = {
    "ADALORA": "its update has a third factor and a rank pattern of masks",
    "IA3": "it scales activations instead of adding to weights",
    "LOHA": "its update is a Hadamard product of two low-rank matrices",
    "LOKR": "its update is a Kronecker product",
    "BOFT": "it rotates the base's weights",
    "VERA": "its projections are drawn again from a seed and are not in the file",
    "XLORA": "it mixes adapters token by token",
    "TRAINABLE_TOKENS": "it replaces single rows of an embedding",
    "PROMPT_TUNING": "it adds virtual tokens and changes no weight",
    "PREFIX_TUNING": "it adds virtual tokens and changes no weight",
    "P_TUNING": "it adds virtual tokens and changes no weight",
}
#: LoRA variants that are switched on by one key, and why a plain product would be wrong for them.
_VARIANTS = {
    "alora_invocation_tokens": "its update applies only after certain tokens",
    "arrow_config": "it routes between adapters token by token",
    "use_bdlora": "its factors are block-diagonal",
    "kasa_config": "it changes the base's spectrum first",
    "velora_config": "this variant has not been checked",
    "monteclora_config": "its factors are samples around the stored ones",
    "use_qalora": "it pools inputs in groups",
    "layer_replication": "it repeats layers of the base first",
    "trainable_token_indices": "it replaces single rows of an embedding",
}
#: Ways to start training that leave the base as it is. The others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) subtract a
#: part of the base or quantise it, so the stored factors are not an update of the base on disk.
_PLAIN_STARTS = (True, False, None, "true", "gaussian", "eva", "orthogonal")
#: Keys that say how the adapter was trained or found, or that are read below; anything else that is set is refused.
_KNOWN = frozenset(_VARIANTS) | {
    "peft_type",
    "peft_version",
    "task_type",
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "fan_in_fan_out",
    "bias",
    "use_rslora",
    "use_dora",
    "modules_to_save",
    "init_lora_weights",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "megatron_config",
    "megatron_core",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "qalora_group_size",
    "runtime_config",
    "lora_bias",
    "ensure_weight_tying",
    "target_modules_to_tie",
    "target_parameters",
    "unsloth_fixed",
}


@dataclass(frozen=True)
class LoraConfig:
    """The part of adapter_config.json that decides what the factors mean.

    Attributes:
        where: the file, for messages.
        base_name: the base the adapter was trained on, as its author called it; information only.
        rank: the rank of modules without a pattern of their own.
        alpha: the numerator of the scale of modules without a pattern of their own.
        rank_pattern: rank by regular expression on the end of a module's name; the first that matches counts.
        alpha_pattern: alpha in the same way.
        rslora: the scale is alpha / sqrt(rank) instead of alpha / rank.
        transposed: base weights are stored (in, out), as Conv1D does. Where a base is at hand its shapes decide.
        dora: weights are rescaled to stored magnitudes after the update.
        saved: names of modules stored in full.
        raw: everything the file says.
        parameters: ends of names of stacked parameters (experts) that are updated; their factors lie side by side.
        by_name: rank and alpha by module, for formats that keep them so; what it names needs no pattern.
    """

    where: str
    base_name: str | None
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rslora: bool
    transposed: bool
    dora: bool
    saved: tuple[str, ...]
    raw: Mapping[str, Any]
    parameters: tuple[str, ...] = ()
    by_name: Mapping[str, tuple[int, float]] = field(default_factory=dict)

    def rank_of(self, module: str) -> int:
        """Returns the rank the configuration gives a module."""
        return self.by_name[module][0] if module in self.by_name else _of(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """Returns the factor on the product B A of a module."""
        rank = self.rank_of(module)
        alpha = self.by_name[module][1] if module in self.by_name else _of(self.alpha_pattern, module, self.alpha)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


def _of(patterns: Mapping[str, Number], module: str, default: Number) -> Number:
    """Returns the value of the first pattern that matches the module's name from some dot (or its start) to its end."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return patterns.get(module, default)


def load_config(folder: Path) -> tuple[Mapping[str, Any], str]:
    """Loads an adapter folder's configuration, and returns it with what messages call it.

    Raises:
        CheckpointError: when it is missing or malformed.
    """
    path = folder / "adapter_config.json"
    return _load(path, str(path)), str(path)


def read_config(raw: Mapping[str, Any], where: str) -> LoraConfig:
    """Reads the configuration of a LoRA adapter, and checks that its update is one that can be computed exactly.

    Raises:
        CheckpointError: when it is malformed, or describes another kind of adapter; the reason is named.
    """
    _check_kind(raw, where)
    patterns = {key: _patterns(raw, key, where) for key in ("rank_pattern", "alpha_pattern")}
    ranks = {p: _rank(value, f"{where}: rank_pattern '{p}'") for p, value in patterns["rank_pattern"].items()}
    alphas = {p: _alpha(value, f"{where}: alpha_pattern '{p}'") for p, value in patterns["alpha_pattern"].items()}
    base_name, saved = raw.get("base_model_name_or_path"), names_of(raw, "modules_to_save", where)
    return LoraConfig(
        where,
        base_name if isinstance(base_name, str) and base_name else None,
        _rank(raw.get("r", 8), f"{where}: r"),
        _alpha(raw.get("lora_alpha", 8), f"{where}: lora_alpha"),
        ranks,
        alphas,
        flag_of(raw, "use_rslora", where),
        flag_of(raw, "fan_in_fan_out", where),
        flag_of(raw, "use_dora", where),
        saved,
        raw,
        names_of(raw, "target_parameters", where),
    )


def _load(path: Path, where: str) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST_CONFIG + 1)
    except FileNotFoundError as error:
        raise CheckpointError(f"{where}: no such file; an adapter folder holds one beside its weights") from error
    except OSError as error:
        raise CheckpointError(f"{where}: cannot be read: {error.strerror}") from error
    if len(raw) > _LARGEST_CONFIG:
        raise CheckpointError(f"{where}: expected at most {_LARGEST_CONFIG} bytes; this is no adapter configuration")
    parsed = parse_json(raw, where, "the file")
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{where}: expected a JSON object, found {type(parsed).__name__}")
    return parsed


def _check_kind(raw: Mapping[str, Any], where: str) -> None:
    """Refuses what is not LoRA, or a variant of it whose update is not a product of the stored factors."""
    kind = raw.get("peft_type")
    if kind != "LORA":
        reason = _OTHER_TYPES.get(str(kind), "eutectic does not know how its update is computed")
        raise CheckpointError(
            f"{where}: expected peft_type LORA or OFT, found {kind!r:.200}: {reason}; merge it in PEFT first"
        )
    for key, reason in _VARIANTS.items():
        if raw.get(key):
            raise CheckpointError(f"{where}: {key} is set: {reason}; merge the adapter into its base in PEFT first")
    start = raw.get("init_lora_weights")
    plain = start.lower() if isinstance(start, str) else start
    if not any(plain is known or (isinstance(known, str) and plain == known) for known in _PLAIN_STARTS):
        raise CheckpointError(
            f"{where}: init_lora_weights is {start!r:.200}, which changes the base before training, so the factors are "
            "no update of the base on disk; save the adapter in PEFT with path_initial_model_for_weight_conversion"
        )
    check_keys(raw, _KNOWN, where)


def check_keys(raw: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Checks that nothing is set whose effect on the update is not known.

    Raises:
        CheckpointError: when something is.
    """
    unknown = sorted(key for key, value in raw.items() if value and key not in known)
    if unknown:
        raise CheckpointError(
            f"{where}: {unknown[0]!r:.200} is set, and what it does to the update is not known"
            f"{nearest(unknown[0], known)}"
        )


def _patterns(raw: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    found = raw.get(key) or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{where}: expected {key} to map patterns to numbers, found {found!r:.200}")
    for pattern in found:
        try:
            re.compile(rf"(.*\.)?({pattern})$")
        except (re.error, RecursionError, OverflowError) as error:
            raise CheckpointError(f"{where}: {key} {pattern!r:.200} is not a regular expression: {error}") from error
    return found


def names_of(raw: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """Returns a list of names that the configuration holds; none if it does not.

    Raises:
        CheckpointError: when it is something else.
    """
    value = raw.get(key) or ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise CheckpointError(f"{where}: expected {key} to be a list of names, found {value!r:.200}")
    return tuple(value)


def _rank(value: object, what: str) -> int:
    if type(value) is not int or value <= 0:
        raise CheckpointError(f"{what}: expected a rank above zero, found {value!r:.200}")
    return value


def _alpha(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e30:
        raise CheckpointError(f"{what}: expected a finite number, found {value!r:.200}")
    return float(value)


def flag_of(raw: Mapping[str, Any], key: str, where: str) -> bool:
    """Returns whether the configuration switches something on.

    Raises:
        CheckpointError: when it says neither true nor false.
    """
    value = raw.get(key) or False
    if not isinstance(value, bool):
        raise CheckpointError(f"{where}: expected {key} to be true or false, found {value!r:.200}")
    return value
