import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eutectic.checkpoint.open import open_source
from eutectic.checkpoint.pickled import PickledFile, open_pickles
from eutectic.errors import CheckpointError
from tests.make.checkpoints import read


class Malice:
    """An object whose unpickling runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def save(path: Path, value: Any, **options: Any) -> Path:
    """Saves with torch."""
    torch.save(value, path, **options)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_what_torch_saves(tmp_path: Path, zipped: bool) -> None:
    """Types, shapes and bytes, from the zip format and the one before it."""
    tensors = {
        "w": torch.nn.Parameter(torch.randn(3, 4)),
        "h": torch.arange(6).bfloat16().reshape(2, 3),
        "s": torch.tensor(2),
        "e": torch.zeros(0, 2),
        "b": torch.tensor([True, False]),
        "c": torch.tensor([1 + 2j]).conj(),
    }
    source = PickledFile(save(tmp_path / "x.bin", tensors, _use_new_zipfile_serialization=zipped))
    assert list(source.header) == list(tensors)
    assert [spec.dtype.name for spec in source.header.values()] == ["F32", "BF16", "I64", "F32", "BOOL", "C64"]
    for name, tensor in tensors.items():
        expected = tensor.detach().resolve_conj().reshape(-1).view(torch.uint8).numpy().tobytes()
        assert read(source, name).tobytes() == expected
    source.close()


def test_code_is_not_executed(tmp_path: Path) -> None:
    """A pickle that would run a command is refused, and the command has not run."""
    mark = tmp_path / "executed"
    for number, zipped in enumerate((True, False)):
        for value in (Malice(f"touch {mark}"), {"w": torch.ones(1), "x": Malice(f"touch {mark}")}):
            path = save(tmp_path / f"{number}.bin", value, _use_new_zipfile_serialization=zipped)
            with pytest.raises(
                CheckpointError, match="holds more than tensors, and nothing but tensors is ever loaded"
            ):
                PickledFile(path)
    assert not mark.exists()


def test_pickles_are_refused_unless_asked_for(tmp_path: Path) -> None:
    """The message says how to ask; asking opens files and folders."""
    path = save(tmp_path / "pytorch_model.bin", {"w": torch.ones(2)})
    for place in (path, tmp_path):
        with pytest.raises(CheckpointError, match=r"pytorch_model.bin: is a torch pickle.*`pickles: true`"):
            open_source(place)
        assert list(open_source(place, pickles=True).header) == ["w"]


def test_nested_state_dicts_are_unwrapped(tmp_path: Path) -> None:
    """Trainers save the weights under `state_dict`, beside other things."""
    source = PickledFile(save(tmp_path / "x.ckpt", {"state_dict": {"w": torch.ones(2)}, "epoch": 3}))
    assert list(source.header) == ["w"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"w": torch.ones(1), "lr": 0.1}, "expected only tensors, found 'lr' of type float"),
        ([torch.ones(1)], "expected a mapping from names to tensors, found list"),
        ({3: torch.ones(1)}, "expected the names of tensors, found the key 3"),
        ({"__metadata__": torch.ones(1)}, "found the key '__metadata__'"),
        ({"w": torch.ones(1, dtype=torch.complex128)}, "'w': elements of type complex128 cannot be written"),
        ({"w": torch.ones(2).to_sparse()}, "'w' is sparse"),
        ({"w": torch.ones(2, device="meta")}, "without data"),
    ],
)
def test_anything_but_plain_tensors_is_refused(tmp_path: Path, value: Any, message: str) -> None:
    """Entries that are no tensors, or tensors that no file could hold, are named."""
    with pytest.raises(CheckpointError, match=message):
        PickledFile(save(tmp_path / "x.pt", value))


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"PK\x03\x04 broken", b"\x80\x02}q\x00."])
def test_broken_files_are_refused(tmp_path: Path, content: bytes) -> None:
    """What torch cannot read ends in our error."""
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x.bin: "):
        PickledFile(tmp_path / "x.bin")


def test_shared_and_strided_storage(tmp_path: Path) -> None:
    """Tied tensors are two tensors of equal bytes; a transposed and a repeated one are read row by row."""
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": base, "tied": base, "tail": base[1:], "t": base.T, "r": base[:1].expand(5, 4)}
    source = PickledFile(save(tmp_path / "x.pt", tensors))
    for name, tensor in tensors.items():
        assert read(source, name).tobytes() == tensor.contiguous().numpy().tobytes()
    assert read(source, "t", 4, 8).view(np.float32).tolist() == [5, 9, 2, 6]


def test_a_truncated_file_is_not_read(tmp_path: Path) -> None:
    """The file is mapped: touching what is gone would kill the process, so it is looked at first."""
    path = save(tmp_path / "x.pt", {"w": torch.ones(100_000)})
    source = PickledFile(path)
    os.truncate(path, 1000)
    with pytest.raises(CheckpointError, match="changed"):
        read(source, "w")


def test_folders_of_pickles(tmp_path: Path) -> None:
    """An index is followed and checked; without one only files that are named as weights count."""
    save(tmp_path / "training_args.bin", {"x": torch.ones(1)})
    assert open_pickles(tmp_path) is None
    save(tmp_path / "pytorch_model-00001-of-00002.bin", {"a": torch.ones(1)})
    save(tmp_path / "pytorch_model-00002-of-00002.bin", {"b": torch.ones(1)})
    source = open_pickles(tmp_path)
    assert source is not None
    assert list(source.header) == ["a", "b"]
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}))
    source = open_pickles(tmp_path)
    assert source is not None
    assert list(source.header) == ["a"]
    index.write_text(json.dumps({"weight_map": {"c": "pytorch_model-00001-of-00002.bin"}}))
    with pytest.raises(CheckpointError, match=r"'c' is not in pytorch_model-00001-of-00002\.bin"):
        open_pickles(tmp_path)
