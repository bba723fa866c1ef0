"""A receipt says what went in, how, and what came out; it can be read back."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import eutectic
from eutectic.engine.receipt import Receipt, describe_fates, describe_inputs, versions
from tests.engine.sites import normal, planned


@pytest.fixture
def plan(tmp_path: Path) -> eutectic.Plan:
    """A plan with a merged tensor and a copied buffer."""
    tensors = [{"a.weight": normal(4, 4, seed=seed), "ids": torch.arange(3)} for seed in range(3)]
    return planned(tmp_path, tensors[0], tensors[1:], [{"dare": {"density": 0.5}}, "task_arithmetic"], seed=11)


def test_written_and_read(plan: eutectic.Plan, tmp_path: Path) -> None:
    """The receipt in the folder is the one returned, but for the time of the rename, which comes after it."""
    receipt = eutectic.run(plan, tmp_path / "out")
    text = (tmp_path / "out" / "eutectic_receipt.json").read_text()
    written = Receipt.from_dict(json.loads(text))
    assert written == replace(receipt, seconds=written.seconds)
    assert written.seconds <= receipt.seconds
    assert written.to_json() == text
    assert receipt.recipe["seed"] == 11
    assert receipt.job == plan.job
    assert receipt.nbytes == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert receipt.memory["planned"] == plan.peak
    assert receipt.threads == 2
    assert not receipt.resumed
    assert receipt.non_finite == {}
    assert receipt.seconds > 0


def test_keys_of_later_versions() -> None:
    """Keys it does not know are left out."""
    fields = dict.fromkeys(Receipt.__dataclass_fields__)
    assert Receipt.from_dict({**fields, "later": 1}) == Receipt(**fields)  # type: ignore[arg-type]


def test_summary(plan: eutectic.Plan, tmp_path: Path) -> None:
    """The summary is what a script wants at once, and JSON."""
    summary = eutectic.run(plan, tmp_path / "out").summary()
    assert json.loads(json.dumps(summary)) == summary
    assert {"job", "seconds", "memory", "non_finite"} <= set(summary)
    assert not {"recipe", "fates"} & set(summary)


def test_inputs(plan: eutectic.Plan) -> None:
    """Every input with its role and a fingerprint of its own."""
    said = describe_inputs(plan)
    assert [each["role"] for each in said] == ["base", "model", "model"]
    assert [each["reference"] for each in said] == [checkpoint.reference for checkpoint in plan.inputs]
    assert len({each["fingerprint"] for each in said}) == 3


def test_fates(plan: eutectic.Plan) -> None:
    """Every tensor with what became of it."""
    assert describe_fates(plan) == {
        "a.weight": "merged by dare, task_arithmetic",
        "ids": "copied: a buffer, the same in all models",
    }


def test_versions() -> None:
    """The versions of what computes."""
    found = versions("1.2.3")
    assert found["eutectic"] == "1.2.3"
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    assert set(found) == {"eutectic", "python", "torch", "numpy", "numba"}
