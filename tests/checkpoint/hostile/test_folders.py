"""Folders whose index, shards or links lie: refused on opening, by file, tensor and rule."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eutectic.checkpoint.open import open_source
from eutectic.errors import CheckpointError
from tests.make.checkpoints import write_file, write_index

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
RIGHT = {"a": FIRST, "b": SECOND}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A right model of two shards, with a weight file outside of it."""
    folder = tmp_path / "model"
    write_file(folder / FIRST, {"a": np.ones(2)})
    write_file(folder / SECOND, {"b": np.ones(2)})
    write_index(folder, RIGHT)
    write_file(tmp_path / "outside.safetensors", {"b": np.zeros(2)})
    open_source(folder).close()
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../outside.safetensors", "expected the plain name of a file here"),
        ("..", "expected the plain name"),
        (".", "expected the plain name"),
        ("", "expected the plain name"),
        ("/etc/passwd", "expected the plain name"),
        ("sub/../../outside.safetensors", "expected the plain name"),
        ("a\0b", "expected the plain name"),
        ("\ud800", "expected the plain name"),
        (3, "expected the plain name"),
        (None, "expected the plain name"),
        (["x"], "expected the plain name"),
        ("model-00003-of-00003.safetensors", "no such file; the checkpoint is incomplete"),
        ("x" * 300, "cannot be looked up"),
        ("..\\outside.safetensors", "no such file"),
        (FIRST, rf"'b' is not in {FIRST}, where the index says"),
    ],
    ids=(f"file {number}" for number in range(15)),
)
def test_indexes_that_name_wrong_files(folder: Path, name: object, message: str) -> None:
    """An index leads nowhere outside its folder, and to files that hold what it says."""
    write_index(folder, {"a": FIRST, "b": name})
    with pytest.raises(CheckpointError, match=message):
        open_source(folder)


def missing_tensor(folder: Path) -> None:
    """The index names a tensor nobody has."""
    write_index(folder, RIGHT | {"c": SECOND})


def swapped(folder: Path) -> None:
    """The index names the other file."""
    write_index(folder, {"a": SECOND, "b": FIRST})


def unlisted_tensor(folder: Path) -> None:
    """A listed file holds a tensor the index does not know."""
    write_file(folder / SECOND, {"b": np.ones(2), "extra": np.ones(2)})


def tensor_twice(folder: Path) -> None:
    """Both files hold one name."""
    write_file(folder / SECOND, {"b": np.ones(2), "a": np.zeros(2)})


def stale_index(folder: Path) -> None:
    """An unsharded file stands beside the index of an older save."""
    write_file(folder / "model.safetensors", {"a": np.ones(2), "b": np.ones(2)})


def numbered_file_missing(folder: Path) -> None:
    """Without an index, the files' own numbers tell."""
    (folder / "model.safetensors.index.json").unlink()
    (folder / SECOND).unlink()


def twice_without_index(folder: Path) -> None:
    """Without an index, a stray copy has the same names."""
    (folder / "model.safetensors.index.json").unlink()
    write_file(folder / "copy.safetensors", {"a": np.zeros(2)})


def link_outside(folder: Path) -> None:
    """A shard is a link out of the folder."""
    (folder / SECOND).unlink()
    (folder / SECOND).symlink_to(folder.parent / "outside.safetensors")


def dangling_link(folder: Path) -> None:
    """A shard is a link to nothing."""
    (folder / SECOND).unlink()
    (folder / SECOND).symlink_to("nothing")


def circular_link(folder: Path) -> None:
    """A shard is a link to itself."""
    (folder / SECOND).unlink()
    (folder / SECOND).symlink_to(SECOND)


def shard_is_a_folder(folder: Path) -> None:
    """A folder has a shard's name."""
    (folder / SECOND).unlink()
    (folder / SECOND).mkdir()


def shard_is_a_pipe(folder: Path) -> None:
    """A pipe has a shard's name."""
    (folder / SECOND).unlink()
    os.mkfifo(folder / SECOND)


def shard_is_truncated(folder: Path) -> None:
    """A download stopped half-way."""
    os.truncate(folder / SECOND, (folder / SECOND).stat().st_size - 1)


def empty_map(folder: Path) -> None:
    """The index lists nothing."""
    write_index(folder, {})


def key_twice(folder: Path) -> None:
    """The index names a tensor twice, for two files."""
    (folder / "model.safetensors.index.json").write_text(f'{{"weight_map": {{"a": "{FIRST}", "a": "{SECOND}"}}}}')


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (missing_tensor, f"'c' is not in {SECOND}"),
        (swapped, rf"'a' is in {FIRST}, not in {SECOND}, where the index says"),
        (unlisted_tensor, f"'extra' of {SECOND} is missing from the index"),
        (tensor_twice, f"'a' is in two files, {FIRST} and {SECOND}"),
        (stale_index, "has both model.safetensors and model.safetensors.index.json, .* remove the stale one"),
        (numbered_file_missing, f"{SECOND}: no such file, though {FIRST} says there are 2"),
        (twice_without_index, f"'a' is in two files, copy.safetensors and {FIRST}"),
        (link_outside, f"{SECOND}: is a link out of its folder"),
        (dangling_link, f"{SECOND}: no such file"),
        (circular_link, f"{SECOND}: no such file"),
        (shard_is_a_folder, f"{SECOND}: no such file"),
        (shard_is_a_pipe, f"{SECOND}: no such file"),
        (shard_is_truncated, rf"{SECOND}: .*'b': ends at byte 16, but only 15 bytes follow"),
        (empty_map, "expected a weight_map"),
        (key_twice, "has the key 'a' twice"),
    ],
)
def test_folders_that_lie(folder: Path, break_it: Callable[[Path], None], message: str) -> None:
    """Each is refused before anything is read."""
    break_it(folder)
    with pytest.raises(CheckpointError, match=message):
        open_source(folder)


def test_links_inside_the_folder_are_followed(folder: Path) -> None:
    """A link that stays in its folder is a name like another."""
    (folder / SECOND).rename(folder / "blob")
    (folder / SECOND).symlink_to("blob")
    assert set(open_source(folder).header) == {"a", "b"}


def test_a_snapshot_links_to_its_own_blobs_only(folder: Path, tmp_path: Path) -> None:
    """A cache's snapshot may link to the blobs beside it, and nowhere else."""
    snapshot = tmp_path / "models--x" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    blob = tmp_path / "models--x" / "blobs" / "123"
    blob.parent.mkdir()
    (snapshot / SECOND).rename(blob)
    (snapshot / SECOND).symlink_to("../../blobs/123")
    assert set(open_source(snapshot).header) == {"a", "b"}
    (snapshot / SECOND).unlink()
    (snapshot / SECOND).symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(CheckpointError, match="link out of its folder"):
        open_source(snapshot)


json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from([FIRST, SECOND])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)
maps = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.one_of(st.sampled_from([FIRST, SECOND]), json_values))


@given(
    st.one_of(json_values, maps.map(lambda found: {"weight_map": found})).map(json.dumps).map(str.encode) | st.binary()
)
def test_any_index_opens_or_is_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Whatever the index says, it ends in our error or in exactly the two tensors of the two files."""
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    if not folder.exists():
        write_file(folder / FIRST, {"a": np.ones(2)})
        write_file(folder / SECOND, {"b": np.ones(2)})
    (folder / "model.safetensors.index.json").write_bytes(content)
    message = None
    try:
        source = open_source(folder)
    except CheckpointError as error:
        message = str(error)
    if message is not None:
        assert "fuzz" in message
        return
    assert set(source.header) <= {"a", "b"}
    source.close()
