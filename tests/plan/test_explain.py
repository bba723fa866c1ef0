"""A plan in words and as data."""

import json
from pathlib import Path

import torch

from tests.plan.small import EMBEDDING, HEAD, NORM, Q, plan, recipe, tensors


def test_page(tmp_path: Path) -> None:
    """The page says inputs, bytes, memory, threads, and sums up the fates."""
    asked = recipe(
        tmp_path, tensors(), tensors(), tensors(**{"model.extra.weight": torch.ones(2)}), extra="drop",
        method=[{"dare": {"density": 0.5}}, {"ties": {"density": 0.3}}], rules=[{"match": NORM, "keep": "base"}],
    )  # fmt: skip
    found = plan(asked, memory=1 << 30, threads=3)
    text = found.explain()
    for part in (
        "base (base)", "m0", "in 3 sweep(s)", "of 1.0 GiB at most", "threads   3 on cpu",
        "merged    4 tensors by dare, then ties", "copied    1 tensors: kept from base by a rule",
        "dropped   model.extra.weight: extra: drop",
    ):  # fmt: skip
        assert part in text, part
    assert "time" not in text
    assert "time      about" in found.explain(speed=1e9)
    assert all(len(line) <= 120 or "/" in line for line in text.splitlines())
    assert Q.format(0) not in text


def test_every_tensor(tmp_path: Path) -> None:
    """On demand every tensor has its line, with its type, shape and numbers."""
    models = (tensors(), tensors())
    asked = recipe(tmp_path, tensors(), *models, method="task_arithmetic", rules=[
        {"models": ["m0"], "set": {"weight": 0.25}}, {"models": ["m1"], "set": {"weight": -1}},
    ])  # fmt: skip
    text = " ".join(plan(asked).explain(tensors=True).split())
    for name in (EMBEDDING, HEAD, NORM, Q.format(0), Q.format(1)):
        assert f"merged {name} BF16" in text
    assert "weight=[0.25, -1]" in text


def test_data(tmp_path: Path) -> None:
    """The same as data: valid JSON, with every tensor in one of three places."""
    extra = {"model.extra.weight": torch.ones(2)}
    asked = recipe(
        tmp_path, tensors(), tensors(), tensors(**extra), extra="copy", rules=[{"match": NORM, "keep": "m1"}]
    )
    found = plan(asked, memory=1 << 30, threads=2)
    data = json.loads(json.dumps(found.describe()))
    assert set(data["merged"]) | set(data["copied"]) | set(data["dropped"]) == set(tensors()) | set(extra)
    assert data["merged"][EMBEDDING][0]["method"] == "linear"
    assert data["merged"][EMBEDDING][0]["weight"] == [1.0, 1.0]
    assert (data["budget"], data["threads"], data["peak"]) == (1 << 30, 2, found.peak)
    assert data["shards"] == ["model.safetensors"]
    assert "config.json" in data["files"]
    assert data["job"] == found.job
