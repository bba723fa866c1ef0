from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import ones, zeros

import eutectic
from eutectic.checkpoint.spec import DTYPES, TensorSpec
from eutectic.checkpoint.tasks import (
    check_same_merge,
    extra_name,
    filename,
    find_task,
    lay_out_tasks,
    open_task_file,
    place_name,
    task_files,
    task_name,
    task_names,
)
from eutectic.checkpoint.writer import ShardWriter

MASK, SCALE = extra_name("a.weight", "emr", "mask"), extra_name("a.weight", "emr", "rescaler")
SPECS = [TensorSpec(MASK, (3,), DTYPES["U8"]), TensorSpec(SCALE, (), DTYPES["F32"])]


def write(folder: Path, number: int, task: str | None, recipe: str = "{}", **tensors: object) -> Path:
    """Writes one task's file with the format's own library."""
    path = folder / filename(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {"eutectic_recipe": recipe} | ({} if task is None else {"eutectic_task": task})
    save_file(tensors or {MASK: zeros(3).byte(), SCALE: ones(())}, path, said)  # type: ignore[arg-type]
    return path


def test_layout_and_back(tmp_path: Path) -> None:
    """Each task has a file with the same names; what is written at the places a layout gives is read back."""
    layout = lay_out_tasks(["code", "org/maths"], [SPECS, SPECS], {"eutectic_recipe": "{}"})
    writer = ShardWriter(tmp_path, layout)
    mask = ones(3).byte().numpy() * 7
    writer.write(place_name(1, MASK), 0, mask)
    writer.seal()
    writer.close()
    assert [path.name for path in task_files(tmp_path)] == ["task-1.safetensors", "task-2.safetensors"]
    task = open_task_file(find_task(tmp_path, "org/maths"))
    assert task.made == {"a.weight": ("emr", {"rescaler": SCALE, "mask": MASK})}
    assert task.extras == ("emr.mask", "emr.rescaler")
    assert task.nbytes == 7
    out = zeros(3).byte().numpy()
    task.file.read_into(MASK, 0, out)
    assert out.tolist() == [7, 7, 7]
    task.close()


def test_tasks_are_in_the_order_of_the_models(tmp_path: Path) -> None:
    """Ten comes after nine; other files are none of ours."""
    for number in range(10):
        write(tmp_path, number, f"task {number}")
    (tmp_path / "tasks" / "notes.txt").write_text("x")
    (tmp_path / "tasks" / "task-x.safetensors").write_text("x")
    assert list(task_names(tmp_path)) == [f"task {number}" for number in range(10)]
    assert task_files(tmp_path / "elsewhere") == []


def test_by_name_or_number(tmp_path: Path) -> None:
    """A name, or a number from 1; a name that is a number is a name first."""
    for number, name in enumerate(("code", "1")):
        write(tmp_path, number, name)
    assert task_name(tmp_path, "code") == "code"
    assert task_name(tmp_path, "1") == "1"
    assert task_name(tmp_path, "2") == "1"
    for wrong in ("0", "3", "-1", "cod", "²", "9" * 5000):
        with pytest.raises(eutectic.RecipeError, match="its tasks are code, 1"):
            task_name(tmp_path, wrong)
    with pytest.raises(eutectic.RecipeError, match="did you mean 'code'"):
        task_name(tmp_path, "cod")
    with pytest.raises(eutectic.RecipeError, match="found none; merge with a method that makes them"):
        task_name(tmp_path / "tasks", "code")


@pytest.mark.parametrize(
    ("task", "name", "rule"),
    [
        (None, MASK, "expected the file of a task"),
        ("code", "a.weight", "expected tensors named TENSOR:METHOD.EXTRA"),
        ("code", "a.weight:emr", "expected tensors named TENSOR:METHOD.EXTRA"),
        ("code", ":emr.mask", "expected tensors named TENSOR:METHOD.EXTRA"),
    ],
)
def test_other_files_are_refused(task: str | None, name: str, rule: str, tmp_path: Path) -> None:
    """A file that is no task's says so, by name."""
    path = write(tmp_path, 0, task, **{name: zeros(3).byte()})
    with pytest.raises(eutectic.CheckpointError, match=f"task-1.safetensors: {rule}"):
        open_task_file(path)


def test_two_methods_of_one_tensor(tmp_path: Path) -> None:
    """A tensor is made by one method."""
    path = write(tmp_path, 0, "code", **{"a:emr.mask": zeros(3).byte(), "a:tall_masks.mask": zeros(3).byte()})
    with pytest.raises(eutectic.CheckpointError, match="expected tensors named TENSOR:METHOD"):
        open_task_file(path)


def test_two_files_of_one_task(tmp_path: Path) -> None:
    """Which of the two is meant cannot be told."""
    write(tmp_path, 0, "code")
    write(tmp_path, 1, "code")
    with pytest.raises(eutectic.CheckpointError, match="is of task code, as task-1"):
        task_names(tmp_path)


def test_parts_of_two_merges(tmp_path: Path) -> None:
    """The weights beside a task's file must be of the same recipe; a model without one is another's."""
    task = open_task_file(write(tmp_path, 0, "code", recipe="{}"))
    for said, fits in (({"eutectic_recipe": "{}"}, True), ({"eutectic_recipe": "other"}, False), ({"a": "b"}, False)):
        save_file({"a.weight": ones(4, 5)}, tmp_path / "model.safetensors", said)
        if fits:
            check_same_merge(task, tmp_path)
        else:
            with pytest.raises(eutectic.CheckpointError, match="was made by another recipe than the weights"):
                check_same_merge(task, tmp_path)
    task.close()


def test_a_link_in_place_of_the_folder(tmp_path: Path) -> None:
    """Files are not written through a link into another folder."""
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    out.mkdir()
    (out / "tasks").symlink_to(elsewhere)
    with pytest.raises(eutectic.OutputError, match="symbolic link"):
        ShardWriter(out, lay_out_tasks(["code"], [SPECS], {}))
    assert not list(elsewhere.iterdir())
