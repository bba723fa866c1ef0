"""Which recipes merge generators: adapters of rotations alone, by a method that knows them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import eutectic
from eutectic.errors import RecipeError
from tests.engine.test_turned import ADAPTER, pair


def test_the_plan_says_how(tmp_path: Path) -> None:
    """Every tensor is made of generators; read are these, and copies of the base's embedding beside the base's."""
    base, adapters = pair(tmp_path)
    recipe = {"base": str(base), "models": [str(path) for path in adapters], "method": "orthomerge", "output": ADAPTER}
    planned = eutectic.plan(recipe)
    assert {each.why for each in planned.copied} == {"by orthomerge, of generators"}
    stored = load_file(adapters[0] / "adapter_model.safetensors")
    (copy,) = (stored.pop(name) for name in list(stored) if "oft_" not in name)
    assert {each.spec.name: each.spec.shape for each in planned.copied} == {
        n: tuple(t.shape) for n, t in stored.items()
    }
    assert planned.reads == 2 * (sum(4 * tensor.numel() for tensor in stored.values()) + 2 * 4 * copy.numel())
    assert eutectic.plan(recipe).job == planned.job


@pytest.mark.parametrize(("method", "said"), [("orthomerge", "difference"), ("task_arithmetic", "rank: 64")])
def test_other_outputs_are_differences(method: str, said: str, tmp_path: Path) -> None:
    """Beside a LoRA adapter, or by another method, rotations are differences: of any rank, and not every method's."""
    base, adapters = pair(tmp_path)
    models: list[Any] = [str(path) for path in adapters]
    output: dict[str, Any] = {**ADAPTER, "rest": "drop"}
    if method == "orthomerge":
        models.append(str(tmp_path / "run0" / "merged"))
    with pytest.raises(RecipeError, match=said):
        eutectic.plan({"base": str(base), "models": models, "method": method, "output": output})
    if method == "task_arithmetic":
        output["rank"] = 16
        eutectic.run(
            eutectic.plan({"base": str(base), "models": models, "method": method, "output": output}), out=tmp_path / "o"
        )
        found = load_file(tmp_path / "o" / "adapter_model.safetensors")
        name = "base_model.model.model.layers.0.self_attn.q_proj"
        update = found[f"{name}.lora_B.weight"] @ found[f"{name}.lora_A.weight"]
        before, *tuned = (
            load_file(path / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
            for path in (base, *(tmp_path / f"run{at}" / "merged" for at in range(2)))
        )
        torch.testing.assert_close(update, sum(each - before for each in tuned), rtol=1e-4, atol=1e-5)
