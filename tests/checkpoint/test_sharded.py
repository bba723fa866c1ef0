from pathlib import Path

import numpy as np
import pytest

from eutectic.checkpoint.sharded import ShardedFolder, open_shards
from eutectic.checkpoint.source import Source
from eutectic.errors import CheckpointError
from tests.make.checkpoints import read, write_file, write_index, write_model

TENSORS = {f"t{number}": np.arange(6, dtype=np.float32).reshape(2, 3) + number for number in range(5)}


def opened(folder: Path) -> Source:
    """Opens a folder that has weights."""
    source = open_shards(folder)
    assert source is not None
    return source


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_shards_read_as_one(tmp_path: Path, shards: int) -> None:
    """However many files there are, tensors and bytes are those that were written."""
    source = opened(write_model(tmp_path, TENSORS, shards=shards))
    assert isinstance(source, ShardedFolder)
    assert source.header.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        source.will_need(name, 0, 6)
        assert read(source, name).tobytes() == value.tobytes()
        assert source.read_cost(name) == 24
    assert len(source.shards) == shards
    source.check_unchanged()
    source.close()


def test_files_without_an_index_are_all_read(tmp_path: Path) -> None:
    """Without index and main file, every safetensors file counts but an adapter's; a main file counts alone."""
    write_file(tmp_path / "b.safetensors", {"y": np.ones(1)})
    write_file(tmp_path / "a.safetensors", {"x": np.ones(1)})
    write_file(tmp_path / "adapter_model.safetensors", {"z": np.ones(1)})
    assert list(opened(tmp_path).header) == ["x", "y"]
    write_file(tmp_path / "model.safetensors", {"w": np.ones(1)})
    assert list(opened(tmp_path).header) == ["w"]


def test_an_index_counts_alone(tmp_path: Path) -> None:
    """Files that the index does not name are other formats of the same model."""
    write_model(tmp_path, TENSORS, shards=2)
    write_file(tmp_path / "consolidated.safetensors", {"other": np.ones(1)})
    assert opened(tmp_path).header.keys() == TENSORS.keys()


def test_the_index_may_have_another_name(tmp_path: Path) -> None:
    """Diffusion models call their weights otherwise; two such indexes leave open which one is meant."""
    write_model(tmp_path, TENSORS, shards=2)
    index = tmp_path / "model.safetensors.index.json"
    other = index.rename(tmp_path / "diffusion_pytorch_model.safetensors.index.json")
    assert opened(tmp_path).header.keys() == TENSORS.keys()
    (tmp_path / "second.safetensors.index.json").write_bytes(other.read_bytes())
    with pytest.raises(CheckpointError, match="expected one index"):
        open_shards(tmp_path)


def test_a_wrong_total_size_is_ignored(tmp_path: Path) -> None:
    """Published indexes are often wrong about it, and nothing depends on it."""
    write_model(tmp_path, TENSORS, shards=2)
    names = {name: f"model-0000{1 + (number >= 2)}-of-00002.safetensors" for number, name in enumerate(TENSORS)}
    write_index(tmp_path, names, total=7)
    assert opened(tmp_path).header.keys() == TENSORS.keys()


def test_a_folder_without_weights_is_none(tmp_path: Path) -> None:
    """Whether that is an error is for the caller to say."""
    assert open_shards(tmp_path) is None


def test_fingerprint_is_of_all_files(tmp_path: Path) -> None:
    """A change in the last shard changes the fingerprint of the whole, and is noticed."""
    source = opened(write_model(tmp_path, TENSORS, shards=2))
    before = source.fingerprint()
    assert before == opened(tmp_path).fingerprint()
    path = tmp_path / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert opened(tmp_path).fingerprint() != before
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.safetensors: the file changed"):
        source.check_unchanged()
    source.close()
