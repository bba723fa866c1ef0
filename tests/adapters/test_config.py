import json
from pathlib import Path
from typing import Any

import pytest
from peft.utils.other import get_pattern_key

from eutectic.adapters.config import LoraConfig, load_config, read_config
from eutectic.errors import CheckpointError
from tests.make.adapters import config


def written(folder: Path, **changes: Any) -> LoraConfig:
    """Writes a configuration and reads it."""
    (folder / "adapter_config.json").write_text(json.dumps(config(**changes)))
    return read_config(*load_config(folder))


def test_scale(tmp_path: Path) -> None:
    """Alpha over the rank, or over its square root for rsLoRA."""
    assert written(tmp_path, r=16, lora_alpha=8).scale_of("x") == 0.5
    assert written(tmp_path, r=16, lora_alpha=8, use_rslora=True).scale_of("x") == 2.0


MODULES = (
    "model.layers.1.self_attn.q_proj",
    "layers.11.q_proj",
    "q_proj",
    "aq_proj",
    "model.layers.1.mlp",
    "x.y",
    "x.y.z",
)
PATTERNS = ("q_proj", "layers.1.*", r"layers\.1\.self_attn\.q_proj", "q|mlp", "y", "x.y", "", ".*", "proj")


@pytest.mark.parametrize("first", PATTERNS)
def test_patterns_match_as_in_peft(first: str, tmp_path: Path) -> None:
    """The first pattern that matches a module's name from a dot to its end counts, as PEFT's own function decides."""
    for second in PATTERNS:
        patterns = {first: 100, second: 200}
        read = written(tmp_path, rank_pattern=patterns, alpha_pattern=patterns, r=7)
        for module in MODULES:
            assert read.rank_of(module) == patterns.get(get_pattern_key(patterns.keys(), module), 7)
            alpha = patterns.get(get_pattern_key(patterns.keys(), module), 4)
            assert read.scale_of(module) == alpha / read.rank_of(module)


def test_base_name_is_information(tmp_path: Path) -> None:
    """The base's name is kept as written; a missing one is None."""
    assert written(tmp_path).base_name == "org/base"
    assert written(tmp_path, base_model_name_or_path=None).base_name is None


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "orthogonal"])
def test_starts_that_leave_the_base_alone(start: bool | str | None, tmp_path: Path) -> None:
    """Initialisations that do not touch the base are read."""
    assert written(tmp_path, init_lora_weights=start).rank == 2


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "newest"])
def test_starts_that_change_the_base(start: str, tmp_path: Path) -> None:
    """Initialisations that change the base before training are refused: the factors are no update of it."""
    with pytest.raises(CheckpointError, match="init_lora_weights"):
        written(tmp_path, init_lora_weights=start)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 0}, "rank above zero"),
        ({"r": True}, "rank above zero"),
        ({"r": 2.0}, "rank above zero"),
        ({"lora_alpha": "2"}, "finite number"),
        ({"lora_alpha": 1e300}, "finite number"),
        ({"rank_pattern": {"x": -1}}, "rank_pattern 'x'.*above zero"),
        ({"alpha_pattern": {"x": None}}, "alpha_pattern 'x'.*finite"),
        ({"alpha_pattern": {"(": 1}}, "not a regular expression"),
        ({"alpha_pattern": [1]}, "to map patterns"),
        ({"modules_to_save": "head"}, "a list of names"),
        ({"use_dora": "yes"}, "use_dora to be true or false"),
        ({"peft_type": None}, "expected peft_type LORA"),
        ({"peft_type": "IA3"}, "scales activations"),
        ({"alora_invocation_tokens": [1, 2]}, "after certain tokens"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "repeats layers"),
        ({"lora_alpa": 2}, "did you mean 'lora_alpha'"),
    ],
)
def test_wrong_values(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A value that cannot be meant is refused with the file and the key."""
    with pytest.raises(CheckpointError, match=message) as refusal:
        written(tmp_path, **changes)
    assert "adapter_config.json" in str(refusal.value)


@pytest.mark.parametrize(
    ("raw", "message"), [(b"[]", "JSON object"), (b'{"r": 1, "r": 2}', "twice"), (b"{", "valid JSON")]
)
def test_broken_files(raw: bytes, message: str, tmp_path: Path) -> None:
    """Anything but one JSON object is refused."""
    (tmp_path / "adapter_config.json").write_bytes(raw)
    with pytest.raises(CheckpointError, match=message):
        read_config(*load_config(tmp_path))


def test_missing_file(tmp_path: Path) -> None:
    """A folder without a configuration is no adapter."""
    with pytest.raises(CheckpointError, match="no such file"):
        read_config(*load_config(tmp_path))
