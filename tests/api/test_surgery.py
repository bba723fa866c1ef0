"""Adapters of features end to end: what is fitted, what is stored, and what is refused before any pass."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

import eutectic
from eutectic.calibrate.batches import Processor
from eutectic.calibrate.data import read_samples
from eutectic.calibrate.features import feature_of
from eutectic.errors import CalibrationError, CheckpointError, OutputError, OverBudget
from eutectic.search.surgery import FeatureAdapter, fit
from tests.make.transformer import config, family, save, texts


@pytest.fixture(scope="module")
def berts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two experts, data, and their merge."""
    folder = tmp_path_factory.mktemp("berts")
    family(folder, "BertModel", config("bert"))
    for k in range(2):
        texts(folder / f"data{k}.jsonl", 40, seed=k)
    eutectic.run(eutectic.plan(recipe(folder)), out=folder / "merged")
    return folder


def recipe(folder: Path, **calibration: Any) -> eutectic.Recipe:
    """Task arithmetic over both experts."""
    said = {"data": {f"e{k}": str(folder / f"data{k}.jsonl") for k in range(2)}, "batch": 8, **calibration}
    models = [{"model": str(folder / f"expert{k}"), "name": f"e{k}"} for k in range(2)]
    return eutectic.merge(
        models, base=str(folder / "base"), method={"task_arithmetic": {"weight": 0.5}}, calibration=said
    )


def features(model: Path, data: Path) -> torch.Tensor:
    """Means over real tokens by the whole model."""
    opened = eutectic.open(model)
    batches = Processor(opened, None, 512).batches(read_samples(str(data), 256), 8)
    module = transformers.AutoModel.from_pretrained(model).eval()
    with torch.no_grad():
        return torch.cat([feature_of(module, batch, "mean") for batch in batches])


def test_it_is_the_fit_of_both_models_features(berts: Path, tmp_path: Path) -> None:
    """Taken block by block; nearer than before; and what is written is what is read."""
    planned = eutectic.plan_surgery(recipe(berts), berts / "merged", rank=4, steps=60, rate=1e-2, store=tmp_path)
    found = eutectic.surgery(planned)
    for k in range(2):
        task, data = f"e{k}", berts / f"data{k}.jsonl"
        merged, expert = features(berts / "merged", data), features(berts / f"expert{k}", data)
        start = FeatureAdapter.start(16, 4, 0, task)
        ours = fit(merged, expert, start, steps=60, size=8, rate=1e-2, task=task)
        assert torch.allclose(found.adapters[task].up, ours.up, atol=1e-4)
        before, after = found.distances[task]
        assert before == pytest.approx(start.distance(merged, expert), abs=1e-5)
        assert after < before
    file = tmp_path / "adapters.safetensors"
    found.save(file)
    again = eutectic.Surgery.open(file)
    assert again.distances == found.distances
    assert again.pool == "mean"
    rows = torch.randn(2, 3, 16)
    assert torch.equal(again(rows, "e1"), found.adapters["e1"](rows))


def test_features_are_stored(berts: Path, tmp_path: Path) -> None:
    """Another rank passes no model; another merge passes the experts' no more."""
    planned = eutectic.plan_surgery(recipe(berts), berts / "merged", steps=1, store=tmp_path)
    assert "through" in planned.explain()
    eutectic.surgery(planned)
    again = eutectic.plan_surgery(recipe(berts), berts / "merged", rank=2, steps=1, store=tmp_path)
    assert again.describe()["stored"] == {"e0": [True, True], "e1": [True, True]}
    assert again.explain().count("features are stored already") == 2
    other = eutectic.plan_surgery(recipe(berts), berts / "base", steps=1, store=tmp_path)
    assert other.describe()["stored"] == {"e0": [False, True], "e1": [False, True]}


@pytest.mark.parametrize(
    ("kind", "cls"),
    [("llama", "LlamaForCausalLM"), ("t5", "T5ForConditionalGeneration"), ("vit", "ViTForImageClassification")],
)
def test_kinds_of_models(tmp_path: Path, kind: str, cls: str) -> None:
    """Decoders, encoder-decoders and images."""
    family(tmp_path, cls, config(kind), words=kind != "vit")
    said: dict[str, Any] = {}
    for k in range(2):
        texts(tmp_path / f"data{k}.jsonl", 10, seed=k)
        if kind == "vit":
            save_file({"pixel_values": torch.randn(10, 3, 8, 8)}, tmp_path / f"data{k}.safetensors")
            said.setdefault("data", {})[f"e{k}"] = str(tmp_path / f"data{k}.safetensors")
    planned = eutectic.plan_surgery(
        recipe(tmp_path, **said), tmp_path / "base", steps=30, rate=1e-2, store=tmp_path / "s"
    )
    assert all(after < before for before, after in eutectic.surgery(planned).distances.values())


def test_what_does_not_fit_is_refused(berts: Path, tmp_path: Path) -> None:
    """Before any pass, but for widths that only features show."""

    def refused(match: str, made: Any = None, merged: Path = berts / "merged", **how: Any) -> None:
        with pytest.raises(CalibrationError, match=match):
            eutectic.plan_surgery(made or recipe(berts), merged, store=tmp_path / "store", **how)

    refused("rank: expected a number above 0", rank=0)
    texts(tmp_path / "test.jsonl", 3)
    (tmp_path / "none.jsonl").write_text("")
    refused("found test data by its name", recipe(berts, data=str(tmp_path / "test.jsonl")))
    refused("expected samples, found none", recipe(berts, data=str(tmp_path / "none.jsonl")))
    small = save(tmp_path / "small", config("bert", vocab_size=20), "BertModel", 1)
    refused("expected tokens below 20", merged=small)
    refused("add calibration", recipe(berts).model_copy(update={"calibration": None}))
    with pytest.raises(OverBudget, match="give at least --memory"):
        eutectic.plan_surgery(recipe(berts), berts / "merged", memory="50 MiB", store=tmp_path / "store")
    wide = save(tmp_path / "wide", config("bert", hidden_size=32), "BertModel", 1)
    planned = eutectic.plan_surgery(recipe(berts), wide, steps=1, store=tmp_path / "store")
    with pytest.raises(CalibrationError, match="expected features of width 16, as its expert's, found 32"):
        eutectic.surgery(planned)


def test_files_and_tasks_that_are_not_there(tmp_path: Path) -> None:
    """With what to do, and the nearest task."""
    with pytest.raises(CheckpointError, match="eutectic surgery makes them"):
        eutectic.Surgery.open(tmp_path)
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="found another file"):
        eutectic.Surgery.open(tmp_path / "other.safetensors")
    found = eutectic.Surgery({"code": FeatureAdapter.start(4, 2, 0, "code")}, "mean", {"code": (1.0, 1.0)})
    with pytest.raises(CalibrationError, match="did you mean 'code'"):
        found(torch.ones(4), "cod")
    with pytest.raises(CalibrationError, match="expected features of width 4, found 5"):
        found(torch.ones(5), "code")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        found.save(tmp_path / "file" / "adapters.safetensors")
