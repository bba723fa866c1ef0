"""Plans are made of headers, and named by everything that decides a byte."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import eutectic
from eutectic.plan.build import build, default_memory
from tests.plan.small import EMBEDDING, NORM, plan, recipe, tensors, write


@pytest.mark.parametrize(
    "method",
    ["linear", {"ties": {"density": 0.5}}, "model_stock", {"task_arithmetic": {"weight": "nan"}}, "passthrough"],
    ids=str,
)
def test_no_tensor_is_read(method: Any, tmp_path: Path) -> None:
    """A plan is made over sources that raise when a tensor is read, buffers and vocabularies included."""
    given = [tensors(**{"model.ids": torch.arange(5)}), tensors(embedding=torch.ones(5, 4).bfloat16())]
    models = given[:1] if method == "passthrough" else given
    policies = {"vocabulary": "truncate", "missing": "present", "extra": "copy"}
    found = plan(recipe(tmp_path, tensors(), *models, method=method, **policies))
    assert found.layout.nbytes == found.writes > 0


def test_bytes(tmp_path: Path) -> None:
    """Reads are the bytes of every row once, writes those of the files."""
    found = plan(recipe(tmp_path, tensors(), tensors(), tensors()))
    numel = sum(value.numel() for value in tensors().values())
    assert found.reads == 2 * 2 * numel
    assert found.writes == 2 * numel + len(found.layout.shards[0].header)


def test_tasks(tmp_path: Path) -> None:
    """A file a task, at offsets known beforehand and part of the job: a bit an element, a number a tensor."""
    asked = recipe(tmp_path, tensors(), tensors(norm=torch.zeros(4).bfloat16()), tensors(), method="emr")
    found = plan(asked)
    assert [shard.filename for shard in found.tasks.shards] == ["tasks/task-1.safetensors", "tasks/task-2.safetensors"]
    sizes = [-(-value.numel() // 8) + 4 for value in tensors().values()]
    assert [sum(shard.sizes.values()) for shard in found.tasks.shards] == [sum(sizes)] * 2
    assert found.writes == found.layout.nbytes + found.tasks.nbytes
    assert found.files.nbytes == found.writes
    assert "emr.mask, emr.rescaler for each of 2" in found.explain()
    assert job(asked.model_copy(update={"models": asked.models[::-1]})) != found.job


def test_tasks_of_slices(tmp_path: Path) -> None:
    """Slices are not of one model, so nothing can be made for each."""
    sliced = {"slices": [{"sources": [{"model": "m0", "blocks": [0, 1]}, {"model": "m1", "blocks": [0, 1]}]}]}
    with pytest.raises(eutectic.RecipeError, match="emr makes something for each model's task, and slices are not"):
        plan(recipe(tmp_path, tensors(), tensors(), tensors(), method="emr", **sliced))


def job(asked: eutectic.Recipe, **options: Any) -> str:
    """Returns the digest that names a job."""
    return plan(asked, **options).job


def test_what_a_job_is(tmp_path: Path) -> None:
    """The job's name changes with recipe, inputs, version, device and files; not with threads, memory or spelling."""
    same = recipe(tmp_path, tensors(), tensors(), tensors(), method="task_arithmetic")
    first = job(same)
    assert job(same, threads=7, memory=1 << 30) == first
    assert job(eutectic.read(json.loads(json.dumps(same.to_dict())))) == first
    assert job(same.model_copy(update={"seed": 1})) != first
    assert job(same, device="cuda") != first
    base, models = eutectic.open(tmp_path / "base"), [eutectic.open(tmp_path / f"m{n}") for n in range(2)]
    assert build(same, base, models, version="another").job != first
    (tmp_path / "base" / "generation_config.json").write_text("{}")
    assert job(same) != first
    (tmp_path / "base" / "generation_config.json").unlink()
    assert job(same) == first
    write(tmp_path, "m1", tensors(norm=torch.zeros(4).bfloat16()))
    assert job(same) != first


def test_copied_files_are_part_of_the_job(tmp_path: Path) -> None:
    """A tokenizer that changes between two runs makes another job: the output would hold another file."""
    same = recipe(tmp_path, tensors(), tensors(), tensors())
    (tmp_path / "base" / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    first = job(same)
    (tmp_path / "base" / "tokenizer.json").write_text('{"model": {"vocab": {"b": 0}}}')
    assert job(same) != first


def test_tokenizer_of_nobody(tmp_path: Path) -> None:
    """A tokenizer from a model without a folder is refused, with its name."""
    bare = str(tmp_path / "m0" / "model.safetensors")
    write(tmp_path, "m0", tensors())
    with pytest.raises(eutectic.RecipeError, match=r"output.tokenizer"):
        plan(recipe(tmp_path, tensors(), bare, tensors(), output={"tokenizer": bare}))


def test_notes(tmp_path: Path) -> None:
    """What is special about the models stands in the plan's notes."""
    found = plan(recipe(tmp_path, tensors(), tensors(q1=None), tensors(), missing="base", method="task_arithmetic"))
    assert any("missing from" in note for note in found.notes)


def test_shards(tmp_path: Path) -> None:
    """The output's files are cut at the size asked for, and every tensor has its place."""
    found = plan(recipe(tmp_path, tensors(), tensors(), tensors(), output={"shard_size": 60}))
    assert len(found.layout.shards) > 2
    assert {name for shard in found.layout.shards for name in shard.offsets} == set(tensors())
    assert found.layout.locate(EMBEDDING) != found.layout.locate(NORM)


def test_default_memory() -> None:
    """Without a budget, half of what the machine has; never nothing."""
    assert 1 << 28 < default_memory() < 1 << 50


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads(threads: int, tmp_path: Path) -> None:
    """A number of threads below one is refused."""
    with pytest.raises(eutectic.RecipeError, match="at least one thread"):
        eutectic.plan(recipe(tmp_path, tensors(), tensors(), tensors()), threads=threads)


def test_stages_say_what_they_need(tmp_path: Path) -> None:
    """A recipe with stages is refused with a budget that works for all its parts."""
    inner = recipe(tmp_path, tensors(), tensors(), tensors(), method={"ties": {"density": 0.5}})
    outer = eutectic.merge([inner, inner, str(tmp_path / "m0")], method="linear")
    with pytest.raises(eutectic.OverBudget) as caught:
        eutectic.plan(outer, memory="1MiB")
    assert eutectic.plan(outer, memory=caught.value.needed).peak <= caught.value.needed
