import json
from pathlib import Path

import pytest

import eutectic
from eutectic.errors import OverBudget
from eutectic.plan.adapter import crew, making_bytes
from eutectic.plan.factored import Route
from tests.make.adapters import factors, write_adapter
from tests.plan.test_factored import opened, sites


def test_making_costs_what_the_route_holds(tmp_path: Path) -> None:
    """Cutting costs more than putting side by side; a dense sum costs the matrix."""
    exact = sites(opened(tmp_path, 2, 3))[0]
    cut = sites(opened(tmp_path / "cut", 2, 3), output={"form": "adapter", "rank": 2})[0]
    assert 0 < making_bytes(exact, Route.SUM) < making_bytes(cut, Route.SUM)
    assert making_bytes(cut, Route.DENSE) > 2 * 4 * 12 * 20


def test_a_budget_sets_the_workers(tmp_path: Path) -> None:
    """As many as fit; none is refused with what one takes."""
    made = sites(opened(tmp_path, 2, 3))
    assert crew(made, Route.SUM, 1 << 30, 4)[0] == 4
    with pytest.raises(OverBudget, match="give at least"):
        crew(made, Route.SUM, 25 << 20, 4)


def test_the_plan_lists_what_is_made(tmp_path: Path) -> None:
    """Inputs, both tensors of each module, the configuration; the made source is no input of anybody's."""
    folder = write_adapter(tmp_path / "a", factors("layers.0.q", 12, 20), task_type="CAUSAL_LM")
    plan = eutectic.plan(eutectic.merge_adapters([folder, folder.parent / "a"][:1], weights=[1.0]))
    assert [each.reference for each in plan.read] == [str(folder)]
    assert "made" in plan.explain(tensors=True)
    assert plan.describe()["files"] == ["adapter_config.json"]
    config = json.loads(plan.sidecars[0].content or b"")
    assert (config["r"], config["task_type"], config["base_model_name_or_path"]) == (2, "CAUSAL_LM", "org/base")
    assert [shard.filename for shard in plan.layout.shards] == ["adapter_model.safetensors"]
