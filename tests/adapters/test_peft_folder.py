import json
from pathlib import Path

from eutectic.adapters.config import load_config, read_config
from eutectic.adapters.peft_folder import adapter_config, agreed


def test_scales_are_one_whatever_the_ranks(tmp_path: Path) -> None:
    """Read back, every module has its rank and a scale of 1, also where one name is the end of another."""
    ranks = {"layers.0.q": 8, "q": 2, "layers.1.q": 8, "other.layers.0.q": 3}
    (tmp_path / "adapter_config.json").write_bytes(adapter_config(ranks, transposed=False, base_name="org/base"))
    config = read_config(*load_config(tmp_path))
    assert {module: config.rank_of(module) for module in ranks} == ranks
    assert {config.scale_of(module) for module in ranks} == {1.0}
    assert (config.rank, config.base_name, config.transposed) == (8, "org/base", False)


def test_what_is_stored_in_full_is_said() -> None:
    """Saved modules and biases; nothing of it where there is nothing."""
    plain = json.loads(adapter_config({"q": 1}, transposed=True))
    assert (plain["modules_to_save"], plain["bias"], plain["fan_in_fan_out"]) == (None, "none", True)
    full = json.loads(adapter_config({"q": 1}, transposed=False, saved=["norm"], biases=True, task="CAUSAL_LM"))
    assert (full["modules_to_save"], full["bias"], full["task_type"]) == (["norm"], "all", "CAUSAL_LM")


def test_agreement_needs_all() -> None:
    """One text in all configurations, or none."""
    assert agreed([{"task_type": "A"}, {"task_type": "A"}], "task_type") == "A"
    assert agreed([{"task_type": "A"}, {}], "task_type") is None
    assert agreed([{"task_type": ["A"]}], "task_type") is None
