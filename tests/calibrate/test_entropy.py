"""The entropy of predictions by hand, which samples a step shows, and whose tensors a task has."""

import math
from pathlib import Path

import pytest
import torch

import eutectic
from eutectic.calibrate.entropy import Entropy, drawn, entropy, tasks_of
from eutectic.calibrate.prepare import jobs
from eutectic.engine.staged import staged
from eutectic.errors import CalibrationError
from tests.make.transformer import config, family, texts


def test_entropy_by_hand() -> None:
    """Two equal classes of two: log 2; a sure one: 0; three to one: log 4 - 3/4 log 3; padded tokens do not count."""
    even, sure, odd = torch.zeros(2), torch.tensor([100.0, -100.0]), torch.tensor([3.0, 1.0]).log()
    assert float(entropy(torch.stack([even, sure]), ())) == pytest.approx(math.log(2) / 2)
    assert float(entropy(odd.unsqueeze(0), ())) == pytest.approx(math.log(4) - 0.75 * math.log(3))
    tokens = torch.stack([torch.stack([even, odd, sure])])
    counts = torch.tensor([[True, False, True]])
    assert float(entropy(tokens, (counts,))) == pytest.approx(math.log(2) / 2)


def test_what_a_step_shows() -> None:
    """Different samples, without repetition; a function of seed, task and step; all, where there are no more."""
    first = drawn(50, 8, 0, "a", 1)
    assert first == drawn(50, 8, 0, "a", 1)
    assert len(set(first)) == 8
    for other in (drawn(50, 8, 1, "a", 1), drawn(50, 8, 0, "b", 1), drawn(50, 8, 0, "a", 2)):
        assert other != first
    assert sorted(drawn(5, 8, 0, "a", 1)) == list(range(5))
    counts = torch.bincount(torch.tensor([at for step in range(2000) for at in drawn(10, 3, 0, "a", step)]))
    assert counts.float().sub(600).abs().max() < 5 * math.sqrt(2000 * 0.3 * 0.7)


@pytest.fixture
def plan(tmp_path: Path) -> eutectic.Plan:
    """Two classifiers, whose heads a rule keeps out, and texts."""
    family(tmp_path, "BertForSequenceClassification", config("bert", num_labels=3))
    texts(tmp_path / "data.jsonl", 6)
    recipe = eutectic.merge(
        [{"model": str(tmp_path / f"expert{k}"), "name": f"e{k}"} for k in range(2)],
        base=str(tmp_path / "base"),
        method="task_arithmetic",
        rules=[{"role": "head", "keep": "base"}],
        calibration={"data": str(tmp_path / "data.jsonl"), "batch": 3},
    )
    return eutectic.plan(recipe)


def test_tasks_share_what_is_merged_and_keep_their_heads(plan: eutectic.Plan) -> None:
    """One parameter in both modules; gradients of both add up in it; heads and what is not shared have none."""
    tasks = tasks_of(plan, jobs(plan, every=True), staged(plan, "merged"), ["classifier.weight", "classifier.bias"])
    name = "bert.encoder.layer.0.output.dense.weight"
    shape = torch.Size(next(site.spec.shape for site in plan.merged if site.spec.name == name))
    shared = {name: torch.nn.Parameter(torch.randn(shape) / 8)}
    assert [task.load(shared) for task in tasks] == [{name}, {name}]
    modules = [task.skeleton.module for task in tasks]
    assert all(dict(module.named_parameters())[name] is shared[name] for module in modules)
    heads = [dict(module.named_parameters())["classifier.weight"] for module in modules]
    for task, head in zip(tasks, heads, strict=True):
        assert torch.equal(head, task.job.weights.read("classifier.weight"))
        assert task.kept == 4 * (3 * 16 + 3)
    total = Entropy(plan, tasks, 2).add_gradients(1)
    both = shared[name].grad
    assert both is not None
    each, parts = 0.0, torch.zeros(shape)
    for task in tasks:
        shared[name].grad = None
        each += Entropy(plan, [task], 2).add_gradients(1)
        grad = shared[name].grad
        assert grad is not None
        parts += grad
    assert total == pytest.approx(each)
    assert torch.allclose(both, parts, atol=1e-6)
    assert all(head.grad is None and not head.requires_grad for head in heads)


def test_predictions_that_are_not_finite_stop_it(plan: eutectic.Plan) -> None:
    """With the task's name."""
    tasks = tasks_of(plan, jobs(plan, every=True), staged(plan, "merged"), [])
    name = "bert.embeddings.LayerNorm.weight"
    for task in tasks:
        task.load({name: torch.nn.Parameter(torch.full((16,), torch.inf))})
    with pytest.raises(CalibrationError, match="e0: its predictions are NaN or infinite at step 1"):
        Entropy(plan, tasks, 1).add_gradients(1)
