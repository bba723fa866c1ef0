"""The files of an output that hold what was made for each task, beside the merged model: `tasks/task-1.safetensors` ...

One safetensors file a task. A tensor `W` of the merged model that the method `emr` made a `mask` for has the mask
under `W:emr.mask`; tensors without an entry are the same for all tasks. The metadata names the task, and holds the
recipe, which is also in the merged model's files: parts of two merges do not pass as one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.checkpoint.sharded import list_shards
from eutectic.checkpoint.spec import TensorSpec
from eutectic.checkpoint.writer import ShardLayout, lay_out_file
from eutectic.errors import CheckpointError, RecipeError, nearest

FOLDER = "tasks"
#: Keys of the metadata.
TASK, MERGED_BY = "eutectic_task", "eutectic_recipe"


def filename(number: int) -> str:
    """Returns the file of a task, counted from 0."""
    return f"{FOLDER}/task-{number + 1}.safetensors"


def extra_name(tensor: str, method: str, extra: str) -> str:
    """Returns what a file calls an extra that a method made of a tensor."""
    return f"{tensor}:{method}.{extra}"


def place_name(number: int, name: str) -> str:
    """Returns what the output's layout calls a tensor of a task's file: each has tensors of the same names."""
    return f"{filename(number)}:{name}"


def lay_out_tasks(
    names: Sequence[str], specs: Sequence[Sequence[TensorSpec]], metadata: Mapping[str, str]
) -> ShardLayout:
    """Decides where each task's extras lie in its file.

    Args:
        names: the tasks.
        specs: of each task's file.
        metadata: of all files; each gets its task's name besides.

    Raises:
        OutputError: when a header would be larger than the format allows.
    """
    shards = []
    for number, (name, own) in enumerate(zip(names, specs, strict=True)):
        file = lay_out_file(filename(number), own, {**metadata, TASK: name})
        offsets = {place_name(number, each): at for each, at in file.offsets.items()}
        sizes = {place_name(number, each): size for each, size in file.sizes.items()}
        shards.append(replace(file, offsets=offsets, sizes=sizes))
    return ShardLayout(tuple(shards), None)


@dataclass(frozen=True)
class Task:
    """The open file of one task.

    Attributes:
        name: the task's.
        file: its extras.
        made: for each tensor of the merged model, the method that made them and their names in the file by extra.
    """

    name: str
    file: SafetensorsFile
    made: Mapping[str, tuple[str, Mapping[str, str]]]

    @property
    def nbytes(self) -> int:
        """Bytes of its extras."""
        return sum(spec.nbytes for spec in self.file.header.values())

    @property
    def extras(self) -> tuple[str, ...]:
        """The kinds of extras in it, such as `emr.mask`."""
        return tuple(sorted({f"{method}.{extra}" for method, own in self.made.values() for extra in own}))

    def close(self) -> None:
        """Closes the file."""
        self.file.close()


def task_files(folder: Path) -> list[Path]:
    """Returns the files of an output's tasks, in the order of the recipe's models; none for a plain model."""
    numbered = []
    for path in (folder / FOLDER).glob("task-*.safetensors"):
        digits = path.name.removeprefix("task-").removesuffix(".safetensors")
        if digits.isascii() and digits.isdigit():
            numbered.append((int(digits), path))
    return [path for _, path in sorted(numbered)]


def open_task_file(path: Path) -> Task:
    """Opens the file of one task.

    Raises:
        CheckpointError: when it breaks a rule of its format, or is no such file.
    """
    file = SafetensorsFile(path)
    try:
        made: dict[str, tuple[str, dict[str, str]]] = {}
        for name in file.header:
            tensor, colon, kind = name.rpartition(":")
            method, dot, extra = kind.partition(".")
            if not (colon and dot and tensor and extra) or made.setdefault(tensor, (method, {}))[0] != method:
                raise CheckpointError(f"{path}: expected tensors named TENSOR:METHOD.EXTRA, found {name!a:.200}")
            made[tensor][1][extra] = name
        if TASK not in file.metadata:
            raise CheckpointError(f"{path}: expected the file of a task, found none in its metadata")
    except BaseException:
        file.close()
        raise
    return Task(file.metadata[TASK], file, made)


def task_names(folder: Path) -> dict[str, Path]:
    """Returns the file of each task of an output by the task's name, in the order of the recipe's models.

    Raises:
        CheckpointError: when one breaks a rule of its format, or two are of one task.
    """
    found: dict[str, Path] = {}
    for path in task_files(folder):
        task = open_task_file(path)
        task.close()
        if task.name in found:
            raise CheckpointError(f"{path}: is of task {task.name}, as {found[task.name].name} is; remove one of them")
        found[task.name] = path
    return found


def task_name(folder: Path, task: str) -> str:
    """Returns the name of a task that is called by its name, or by its number from 1.

    Raises:
        RecipeError: when there is no such task; suggests the nearest.
    """
    names = list(task_names(folder))
    if not names:
        raise RecipeError(
            f"{folder}: expected an output with parts for several tasks, found none; merge with a method that makes "
            "them, such as emr"
        )
    if task in names:
        return task
    if task.isascii() and task.isdigit() and 0 < int(task[:9]) <= len(names):
        return names[int(task) - 1]
    raise RecipeError(f"{folder}: has no task {task!r}{nearest(task, names)}; its tasks are {', '.join(names)}")


def find_task(folder: Path, task: str) -> Path:
    """Returns the file of the task of that name.

    Raises:
        RecipeError: when there is none; suggests the nearest.
    """
    return task_names(folder)[task_name(folder, task)]


def check_same_merge(task: Task, folder: Path) -> None:
    """Checks that a task's file and the merged model beside it come from one recipe.

    Raises:
        CheckpointError: when they do not, or a tensor of the file is not in the model.
    """
    listed = list_shards(folder).files
    said = None
    if listed:
        first = SafetensorsFile(folder / listed[0])
        said = first.metadata.get(MERGED_BY)
        first.close()
    if said is None or said != task.file.metadata.get(MERGED_BY):
        raise CheckpointError(
            f"{task.file.path}: was made by another recipe than the weights of {folder}; merge again, or restore the "
            "files that belong together"
        )
