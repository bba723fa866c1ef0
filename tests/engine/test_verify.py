"""An output is what its recipe says, byte for byte, or it is said where it is not."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import eutectic
from tests.engine.family import BIG, BUFFER, MEDIUM, NORM, recipes, run
from tests.make.checkpoints import write_model

EXTRAS = ["trim, emr", "tsv_c", "emr of some", "masks of adapters", "masks of present"]
METHODS = ["rules", "rows", "stage", "adapter", "mixed dtypes", "base rows", "slices", "buffers: base", "extra: copy"]


def merged(small: Path, name: str, out: Path) -> Path:
    """Merges a recipe of the family."""
    run(recipes(small, big=False)[name], out)
    return out


def flip(out: Path, name: str, byte: int) -> None:
    """Changes one bit of one tensor of an output."""
    path = out / "model.safetensors"
    source = eutectic.open(path).source
    begin = source.header[name]
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[:8], "little")
    offset = json.loads(data[8 : 8 + size])[name]["data_offsets"][0]
    assert byte < begin.nbytes
    data[8 + size + offset + byte] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", METHODS + EXTRAS)
def test_right(name: str, small: Path, tmp_path: Path) -> None:
    """All tensors of an untouched output are right, whatever the method, threads and memory."""
    out = merged(small, name, tmp_path / "out")
    found = eutectic.verify(out, sample=None, threads=3, memory="300MiB")
    assert found.ok
    assert found.changed == ()
    with safe_open(out / "model.safetensors", "pt") as file:
        assert set(found.checked) == set(file.keys())


@pytest.mark.parametrize(("tensor", "byte"), [(MEDIUM, 1_000_001), (NORM, 0), (BUFFER, 17), (BIG, 139_999)])
def test_one_flipped_bit(tensor: str, byte: int, small: Path, tmp_path: Path) -> None:
    """One bit in a merged or copied tensor is found, and named."""
    out = merged(small, "rules", tmp_path / "out")
    flip(out, tensor, byte)
    found = eutectic.verify(out, sample=None)
    assert not found.ok
    assert found.differing == {tensor: 1}


@pytest.mark.parametrize("kind", ["mask", "rescaler"])
def test_one_flipped_bit_of_an_extra(kind: str, small: Path, tmp_path: Path) -> None:
    """What was made for each task is made again too; a bit of it that differs is found, and named with its file."""
    out = merged(small, "trim, emr", tmp_path / "out")
    assert eutectic.verify(out, sample=None, threads=3).ok
    path = out / "tasks" / "task-2.safetensors"
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + size])[f"{MEDIUM}:emr.{kind}"]["data_offsets"]
    data[8 + size + (begin + end) // 2] ^= 1
    path.write_bytes(data)
    found = eutectic.verify(out, sample=None)
    assert found.differing == {f"tasks/task-2.safetensors:{MEDIUM}:emr.{kind}": 1}


def test_missing_tasks(small: Path, tmp_path: Path) -> None:
    """A task's file that is gone, or holds other tensors, is refused."""
    out = merged(small, "emr of some", tmp_path / "out")
    other = out / "tasks" / "task-3.safetensors"
    save_file({"a:emr.mask": load_file(other)[f"{MEDIUM}:emr.mask"]}, other, {"eutectic_task": "chat"})
    with pytest.raises(eutectic.CheckpointError, match="is not what its recipe makes"):
        eutectic.verify(out)
    other.unlink()
    with pytest.raises(eutectic.CheckpointError, match="expected the files of 3 tasks, found 2"):
        eutectic.verify(out)


def test_copies_that_were_cast(small: Path, tmp_path: Path) -> None:
    """A copied tensor that was rounded to the output's type is checked as well."""
    recipe = recipes(small, big=False)["rules"] | {"output": {"dtype": "float32"}}
    run(recipe, tmp_path / "out")
    assert eutectic.verify(tmp_path / "out", sample=None).ok
    flip(tmp_path / "out", NORM, 3)
    assert eutectic.verify(tmp_path / "out", sample=None).differing == {NORM: 1}


def test_a_sample(small: Path, tmp_path: Path) -> None:
    """A sample is as large as asked for, spread over the output; a sample of more than all is all."""
    out = merged(small, "rules", tmp_path / "out")
    every = eutectic.verify(out, sample=None).checked
    for size in (1, 3, 5):
        checked = eutectic.verify(out, sample=size).checked
        assert size <= len(checked) <= 2 * size + 1
        assert set(checked) <= set(every)
    assert eutectic.verify(out, sample=1000).checked == every


def test_changed_inputs(small: Path, tmp_path: Path) -> None:
    """An input that changed since is named, and the tensors that differ for it."""
    tensors = load_file(small / "code" / "model.safetensors")
    write_model(tmp_path / "mine", tensors, {})
    models = [str(tmp_path / "mine"), str(small / "chat")]
    run({"models": models, "method": "linear"}, tmp_path / "out")
    write_model(tmp_path / "mine", tensors | {NORM: tensors[NORM] + 1}, {})
    found = eutectic.verify(tmp_path / "out", sample=None)
    assert found.changed == (str(tmp_path / "mine"),)
    assert set(found.differing) == {NORM}


def test_other_tensors(small: Path, tmp_path: Path) -> None:
    """An output whose names or shapes are not those of its recipe is refused."""
    out = merged(small, "rules", tmp_path / "out")
    tensors = load_file(out / "model.safetensors")
    cases: list[dict[str, Any]] = [
        {k: v for k, v in tensors.items() if k != NORM},
        tensors | {NORM: tensors[NORM][:8].clone()},
        tensors | {"more": tensors[NORM].clone()},
        tensors | {NORM: tensors[NORM].float()},
    ]
    for case in cases:
        save_file(case, out / "model.safetensors", {"format": "pt"})
        with pytest.raises(eutectic.CheckpointError, match="its recipe makes"):
            eutectic.verify(out, sample=None)


def test_not_an_output(small: Path) -> None:
    """A folder without a receipt is refused."""
    with pytest.raises(eutectic.CheckpointError, match="expected an output of eutectic"):
        eutectic.verify(small / "code")


def test_nothing_stays_open(small: Path, tmp_path: Path) -> None:
    """Checking closes every file it opened."""
    out = merged(small, "rules", tmp_path / "out")
    before = len(os.listdir("/proc/self/fd"))
    eutectic.verify(out, sample=2)
    assert len(os.listdir("/proc/self/fd")) == before
