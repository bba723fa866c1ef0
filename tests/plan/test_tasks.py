import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import eutectic
from eutectic.checkpoint.tasks import open_task_file
from eutectic.plan.tasks import TaskModel, base_of
from tests.make.checkpoints import read, write_model
from tests.make.memory import MemorySource, from_bytes

BASE, MERGED = torch.arange(40.0).reshape(4, 10), torch.arange(40.0).reshape(4, 10) + 3
MASK = torch.arange(40).reshape(4, 10) % 3 == 0


def task_file(folder: Path, **tensors: torch.Tensor) -> Path:
    """Writes a task's file for the tensor `w`, unless told other tensors."""
    packed = torch.from_numpy(np.packbits(MASK.numpy().reshape(-1), bitorder="little"))
    own = tensors or {"w:emr.mask": packed, "w:emr.rescaler": torch.tensor(0.5)}
    path = folder / "task-1.safetensors"
    save_file(own, path, {"eutectic_task": "code", "eutectic_recipe": "{}"})
    return path


def test_any_range(tmp_path: Path) -> None:
    """A range that starts and ends anywhere is that part of the whole: base + 0.5 * 3 where the mask is set."""
    base, merged = MemorySource({"w": BASE}), MemorySource({"w": MERGED, "v": BASE + 7})
    source = TaskModel(base, merged, open_task_file(task_file(tmp_path)))
    expected = BASE + 1.5 * MASK
    for start in range(40):
        for stop in range(start, 41):
            found = from_bytes(read(source, "w", start, stop), "F32", (stop - start,))
            assert torch.equal(found, expected.reshape(-1)[start:stop])
    assert torch.equal(from_bytes(read(source, "v"), "F32", (4, 10)), BASE + 7)  # nothing was made for it
    assert source.read_cost("v") == 160
    assert source.read_cost("w") == 160 + 160 + 5 + 4
    source.close()


@pytest.mark.parametrize(
    ("base", "merged", "parts"),
    [
        ({"v": BASE}, {"w": MERGED}, {}),
        ({"w": BASE}, {"v": MERGED}, {}),
        ({"w": BASE[:3]}, {"w": MERGED}, {}),
        ({"w": BASE}, {"w": MERGED}, {"w:emr.mask": torch.zeros(4).byte(), "w:emr.rescaler": torch.tensor(1.0)}),
        ({"w": BASE}, {"w": MERGED}, {"w:emr.mask": torch.zeros(5), "w:emr.rescaler": torch.tensor(1.0)}),
        ({"w": BASE}, {"w": MERGED}, {"w:emr.rescaler": torch.tensor(1.0)}),
        ({"w": BASE}, {"w": MERGED}, {"w:ties.mask": torch.zeros(5).byte()}),
    ],
)
def test_parts_that_do_not_fit(
    base: dict[str, torch.Tensor], merged: dict[str, torch.Tensor], parts: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """A tensor that is missing or smaller, a mask of another size or type, a method that makes nothing: refused."""
    with pytest.raises(eutectic.MismatchError):
        TaskModel(MemorySource(base), MemorySource(merged), open_task_file(task_file(tmp_path, **parts)))


def test_an_unknown_method(tmp_path: Path) -> None:
    """A method that is not installed here is named."""
    task = open_task_file(task_file(tmp_path, **{"w:magic.mask": torch.zeros(5).byte()}))
    with pytest.raises(eutectic.RecipeError, match="magic"):
        TaskModel(MemorySource({"w": BASE}), MemorySource({"w": MERGED}), task)


@pytest.fixture
def unified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """TALL masks of two models in the working directory."""
    monkeypatch.chdir(tmp_path)
    draw = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=draw) for name, shape in (("a.weight", (9, 7)), ("b.weight", (3,)))}
    write_model(tmp_path / "base", base, {})
    for name in ("code", "maths"):
        moved = {key: value + torch.randn(value.shape, generator=draw) for key, value in base.items()}
        write_model(tmp_path / name, moved, {})
    recipe = eutectic.merge(["code", "maths"], base="base", method="tall_masks")
    eutectic.run(eutectic.plan(recipe), "unified")
    return tmp_path / "unified"


def planned(**more: object) -> eutectic.Plan:
    """Plans the model of one task."""
    entry = {"model": "unified", "task": "maths", **more}
    return eutectic.plan({"models": [entry], "method": "passthrough"})


def test_a_task_is_a_model_like_any_other(unified: Path, tmp_path: Path) -> None:
    """It can be merged, and named; the merge of the two tasks is the merge of their folders."""
    tasks = [{"model": "unified", "task": name} for name in ("code", "maths")]
    eutectic.run(eutectic.plan({"models": tasks, "method": "linear"}), "at once")
    for name in ("code", "maths"):
        eutectic.run(eutectic.plan(eutectic.specialise("unified", name)), f"of {name}")
    eutectic.run(eutectic.plan({"models": ["of code", "of maths"], "method": "linear"}), "after")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("at once", "after"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert eutectic.read({"models": tasks, "method": "linear"}).names == ("unified#code", "unified#maths")


def test_types_are_the_merged_models(unified: Path, tmp_path: Path) -> None:
    """Written as bfloat16, the merged model is where the mask is, to the bit, and the rounded base where it is not."""
    recipe = eutectic.merge(["code", "maths"], base="base", method="tall_masks", output={"dtype": "bfloat16"})
    eutectic.run(eutectic.plan(recipe), "half")
    eutectic.run(eutectic.plan(eutectic.specialise("half", "code")), "task")
    found, merged, base = (load_file(tmp_path / n / "model.safetensors") for n in ("task", "half", "base"))
    for name, value in found.items():
        assert value.dtype == torch.bfloat16
        assert ((value == merged[name]) | (value == base[name].bfloat16())).all()


def test_changed_files(unified: Path, tmp_path: Path) -> None:
    """A base that changed, weights of another merge, and files that change while they are read."""
    plan = planned()
    os.utime(unified / "tasks" / "task-2.safetensors", (1, 1))
    with pytest.raises(eutectic.CheckpointError, match="changed while it was being read"):
        eutectic.run(plan, "out")
    assert not (tmp_path / "out").exists()
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    write_model(tmp_path / "base", {name: value + 1 for name, value in tensors.items()}, {})
    with pytest.raises(eutectic.CheckpointError, match="base: changed since unified was merged around it"):
        planned()
    assert planned(base="base").inputs[0].reference == "unified#maths"
    shutil.copy(tmp_path / "code" / "model.safetensors", unified / "model.safetensors")
    with pytest.raises(eutectic.CheckpointError, match="made by another recipe"):
        planned(base="base")


def test_no_receipt(unified: Path) -> None:
    """Without a receipt the base has to be named."""
    opened = eutectic.open(unified)
    assert base_of(opened) == "base"
    opened.source.close()
    (unified / "eutectic_receipt.json").unlink()
    with pytest.raises(eutectic.CheckpointError, match="name the task's base"):
        planned()
    assert planned(base="base").merged


def test_nothing_stays_open(unified: Path) -> None:
    """A refused task leaves no file open."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(eutectic.RecipeError, match="has no task 'math'; did you mean 'maths'"):
        planned(task="math")
    with pytest.raises(eutectic.CheckpointError):
        planned(base="nowhere")
    assert len(os.listdir("/proc/self/fd")) == before
