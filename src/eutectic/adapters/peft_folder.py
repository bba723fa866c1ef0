"""What an adapter folder of PEFT says of itself: adapter_config.json for factors that are written with scale 1."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

#: The names PEFT looks for.
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def adapter_config(
    ranks: Mapping[str, int],
    *,
    transposed: bool,
    saved: Sequence[str] = (),
    biases: bool = False,
    task: str | None = None,
    base_name: str | None = None,
) -> bytes:
    """Returns the configuration of an adapter whose alpha is its rank everywhere, so that its factors are its update.

    Modules are named in full, since an ending such as `q_proj` could match modules that the file does not hold.

    Args:
        ranks: the rank of every module.
        transposed: the base keeps weights as (in, out).
        saved: modules that are stored in full.
        biases: biases are stored in full.
        task: PEFT's task type, where the inputs agree on one.
        base_name: the base, where it is known.
    """
    rank = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
    others = _patterns(ranks, rank)
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base_name,
        "revision": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "use_rslora": False,
        "use_dora": False,
        "lora_dropout": 0.0,
        "fan_in_fan_out": transposed,
        "bias": "all" if biases else "none",
        "target_modules": sorted(ranks),
        "modules_to_save": sorted(saved) or None,
        "init_lora_weights": True,
    }
    return (json.dumps(config, indent=2) + "\n").encode()


def _patterns(ranks: Mapping[str, int], usual: int) -> dict[str, int]:
    """Returns the ranks that differ, as patterns: PEFT takes the first that a module's name ends with.

    So the longest come first, and a module of the usual rank is named where the name of another is its ending.
    """
    unusual = {name for name, rank in ranks.items() if rank != usual}
    caught = {name for name in ranks if any(name[at + 1 :] in unusual for at in _dots(name))}
    return {name: ranks[name] for name in sorted(unusual | caught, key=lambda name: (-len(name), name))}


def _dots(name: str) -> list[int]:
    return [at for at, character in enumerate(name) if character == "."]


def agreed(configs: Sequence[Mapping[str, Any]], key: str) -> str | None:
    """Returns what all configurations say under a key, if it is one text."""
    said = {json.dumps(config.get(key)) for config in configs}
    found = json.loads(said.pop()) if len(said) == 1 else None
    return found if isinstance(found, str) else None
