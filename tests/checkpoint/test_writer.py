import errno
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.checkpoint.spec import DTYPES, TensorSpec
from eutectic.checkpoint.writer import Shard, ShardLayout, ShardWriter, lay_out, write_index
from eutectic.errors import OutputError


def spec(name: str, shape: Sequence[int], dtype: str = "F32") -> TensorSpec:
    """Returns a spec."""
    return TensorSpec(name, tuple(shape), DTYPES[dtype])


SPECS = [spec("half", [5], "F16"), spec("wide", [3, 2], "F64"), spec("scalar", []), spec("none", [0, 4], "U8")]
VALUES = {
    "half": np.arange(5, dtype=np.float16),
    "wide": np.arange(6, dtype=np.float64).reshape(3, 2),
    "scalar": np.array(7, np.float32),
    "none": np.zeros((0, 4), np.uint8),
}


def as_bytes(name: str) -> np.ndarray:
    """Returns the bytes of one of the values."""
    return np.frombuffer(VALUES[name].tobytes(), np.uint8)


def test_one_shard_puts_wide_types_first() -> None:
    """Within a file, wider elements come first, and equal widths stay in the given order."""
    layout = lay_out([*SPECS, spec("later", [1], "F64")], 10**9, {"format": "pt"})
    assert [shard.filename for shard in layout.shards] == ["model.safetensors"]
    assert layout.index is None
    assert list(layout.shards[0].offsets) == ["wide", "later", "scalar", "half", "none"]


def test_several_shards_keep_the_given_order() -> None:
    """Files fill up in order; a tensor above the shard size stands alone; the index names them all."""
    specs = [spec("a", [4]), spec("b", [4]), spec("big", [100]), spec("c", [8])]
    layout = lay_out(specs, 32, {})
    assert [list(shard.offsets) for shard in layout.shards] == [["a", "b"], ["big"], ["c"]]
    assert layout.locate("big") == (1, layout.shards[1].offsets["big"])
    assert layout.index is not None
    index = json.loads(layout.index)
    assert index["metadata"] == {"total_size": 464}
    assert index["weight_map"]["c"] == "model-00003-of-00003.safetensors"


@given(
    st.lists(st.tuples(st.sampled_from(["F64", "F32", "BF16", "U8", "BOOL"]), st.lists(st.integers(0, 9), max_size=3))),
    st.integers(1, 500),
)
def test_every_tensor_is_aligned_and_every_byte_explained(shapes: list[tuple[str, list[int]]], size: int) -> None:
    """Offsets are multiples of the element size, tensors follow each other, and the last ends at the file's end."""
    layout = lay_out([spec(f"t{n}", shape, dtype) for n, (dtype, shape) in enumerate(shapes)], size, {"é": "x"})
    assert sum(len(shard.offsets) for shard in layout.shards) == len(shapes)
    for shard in layout.shards:
        reached = len(shard.header)
        assert reached % 8 == 0
        for name, offset in shard.offsets.items():
            dtype = shapes[int(name[1:])][0]
            assert offset == reached
            assert offset % (DTYPES[dtype].bits // 8) == 0
            reached += shard.sizes[name]
        assert reached == shard.size


def test_names_that_cannot_be_written() -> None:
    """`__metadata__` means something else in the format; two tensors of one name are our own bug."""
    with pytest.raises(OutputError, match="__metadata__"):
        lay_out([spec("__metadata__", [1])], 10, {})
    with pytest.raises(ValueError, match="one name"):
        lay_out([spec("a", [1]), spec("a", [1])], 10, {})
    with pytest.raises(OutputError, match="above the format's 100000000"):
        lay_out([spec("a", [1])], 10, {"long": "x" * 100_000_001})


@pytest.mark.parametrize("shard_size", [10, 30, 10**6])
@pytest.mark.parametrize("preallocate", [True, False])
def test_the_safetensors_package_reads_what_is_written(tmp_path: Path, shard_size: int, preallocate: bool) -> None:
    """Written backwards and in pieces, the tensors come back equal, and the metadata too."""
    layout = lay_out(SPECS, shard_size, {"format": "pt", "note": "x"})
    writer = ShardWriter(tmp_path, layout, preallocate)
    for name in reversed(VALUES):
        data = as_bytes(name)
        for start in reversed(range(0, data.size, 4)):
            writer.write(name, start, data[start : start + 4])
    writer.sync()
    writer.seal()
    writer.close()
    write_index(tmp_path, layout)
    loaded = {}
    for shard in layout.shards:
        assert (tmp_path / shard.filename).stat().st_size == shard.size
        with safe_open(tmp_path / shard.filename, "np") as file:
            assert file.metadata() == {"format": "pt", "note": "x"}
        loaded |= load_file(tmp_path / shard.filename)
        SafetensorsFile(tmp_path / shard.filename).close()
    assert loaded.keys() == VALUES.keys()
    for name, value in VALUES.items():
        np.testing.assert_array_equal(loaded[name], value, strict=True)
    assert (tmp_path / "model.safetensors.index.json").exists() == (len(layout.shards) > 1)


def test_unsealed_files_open_nowhere(tmp_path: Path) -> None:
    """Until it is sealed an output is no model to anybody, also when every tensor is written."""
    writer = ShardWriter(tmp_path, lay_out(SPECS, 10**6, {}))
    for name in VALUES:
        writer.write(name, 0, as_bytes(name))
    writer.sync()
    writer.close()
    with pytest.raises(SafetensorError):
        load_file(tmp_path / "model.safetensors")
    with pytest.raises(Exception, match="begin with"):
        SafetensorsFile(tmp_path / "model.safetensors")


def test_reopening_keeps_what_was_written(tmp_path: Path) -> None:
    """A second writer finds the first one's bytes, cuts what is too long, and yields the same file."""
    layout = lay_out(SPECS, 10**6, {})
    path = tmp_path / "model.safetensors"
    first = ShardWriter(tmp_path, layout)
    first.write("wide", 0, as_bytes("wide"))
    first.close()
    with path.open("ab") as file:
        file.write(b"left over")
    second = ShardWriter(tmp_path, layout)
    for name in ("half", "scalar"):
        second.write(name, 0, as_bytes(name))
    second.seal()
    second.close()
    assert {name: value.tolist() for name, value in load_file(path).items()} == {
        name: value.tolist() for name, value in VALUES.items()
    }


def test_threads_do_not_change_the_bytes(tmp_path: Path) -> None:
    """Eight threads that write pieces of one tensor make the file that one thread makes."""
    data = np.random.default_rng(0).integers(0, 256, 80_000, np.uint8)
    layout = lay_out([spec("w", [20_000])], 10**6, {})
    writer = ShardWriter(tmp_path, layout)

    def work(number: int) -> None:
        for start in range(number * 1000, data.size, 8000):
            writer.write("w", start, data[start : start + 1000])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.seal()
    writer.close()
    assert (tmp_path / "model.safetensors").read_bytes() == layout.shards[0].header + data.tobytes()


@pytest.mark.parametrize(("name", "start", "size"), [("half", 8, 4), ("half", -1, 1), ("scalar", 0, 5)])
def test_writes_stay_in_their_tensor(tmp_path: Path, name: str, start: int, size: int) -> None:
    """A write that would reach a neighbour is our own bug."""
    writer = ShardWriter(tmp_path, lay_out(SPECS, 10**6, {}))
    with pytest.raises(ValueError, match="leave tensor"):
        writer.write(name, start, np.zeros(size, np.uint8))
    writer.close()


def test_links_are_not_written_through(tmp_path: Path) -> None:
    """Where a file should go, a symbolic or hard link could be an input: both are refused and left alone."""
    other, out = tmp_path / "input.safetensors", tmp_path / "out"
    other.write_bytes(b"precious")
    out.mkdir()
    for link in (os.symlink, os.link):
        link(other, out / "model.safetensors")
        with pytest.raises(OutputError, match="link"):
            ShardWriter(out, lay_out(SPECS, 10**6, {}))
        (out / "model.safetensors").unlink()
    assert other.read_bytes() == b"precious"


def test_no_room_is_found_before_writing(tmp_path: Path) -> None:
    """An output larger than the disk is refused with both sizes, and takes no room."""
    layout = lay_out([spec("w", [2**45])], 10**30, {})
    with pytest.raises(OutputError, match=r"needs 128\.0 TiB more, and the disk has .* free"):
        ShardWriter(tmp_path, layout)
    assert (tmp_path / "model.safetensors").stat().st_blocks == 0


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    """The folder is the caller's to make."""
    with pytest.raises(OutputError, match="cannot open it for writing: No such file"):
        ShardWriter(tmp_path / "none", lay_out(SPECS, 10**6, {}))
    with pytest.raises(OutputError, match="cannot write the index"):
        write_index(tmp_path / "none", ShardLayout((), "{}"))


def test_a_full_disk_says_how_to_resume(tmp_path: Path) -> None:
    """A write that meets a full disk names the tensor and says that the work is kept."""
    # /dev/full is the kernel's own full disk: it opens, and every write to it is ENOSPC.
    layout = lay_out(SPECS, 10**6, {})
    writer = ShardWriter(tmp_path, layout)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, writer._descriptors[0])
    os.close(full)
    with pytest.raises(
        OutputError, match=r"disk is full, cannot write tensor 'wide' .*run the same command again"
    ) as error:
        writer.write("wide", 0, as_bytes("wide"))
    assert isinstance(error.value.__cause__, OSError)
    assert error.value.__cause__.errno == errno.ENOSPC
    writer.close()


def test_a_failed_sync_is_never_forgotten(tmp_path: Path) -> None:
    """After one failed sync every other fails: the system drops the lost pages and would report success."""
    writer = ShardWriter(tmp_path, lay_out(SPECS, 10**6, {}))
    writer.write("wide", 0, as_bytes("wide"))
    null = os.open("/dev/null", os.O_WRONLY)  # cannot be synced
    os.dup2(null, writer._descriptors[0])
    os.close(null)
    for message in ("cannot sync the written bytes", "an earlier sync failed"):
        with pytest.raises(OutputError, match=message):
            writer.sync()
    writer.close()


def test_the_header_is_exact() -> None:
    """Worked by hand: length, JSON in stored order, padded with spaces to 8 bytes."""
    layout = lay_out([spec("b", [2], "U8"), spec("a", [1])], 100, {"format": "pt"})
    text = (
        b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}       '
    )
    assert len(text) == 144
    header = b"\x90" + bytes(7) + text
    assert layout.shards == (Shard("model.safetensors", header, 158, {"a": 152, "b": 156}, {"a": 4, "b": 2}),)


def _large(tmp_path: Path, lead: int) -> tuple[ShardLayout, np.ndarray]:
    """A tensor of a megabyte behind one of `lead` bytes, and its bytes where they lie in a page as in the file."""
    layout = lay_out([spec("lead", [lead], "U8"), spec("large", [1 << 20], "U8")], 1 << 30, {})
    held = np.empty((1 << 20) + 4096, np.uint8)
    shift = (layout.locate("large")[1] - held.ctypes.data) % 4096
    data = held[shift : shift + (1 << 20)]
    data[:] = np.random.default_rng(lead).integers(0, 256, 1 << 20, np.uint8)
    return layout, data


@pytest.mark.parametrize("lead", [0, 1, 4095, 4096, 70000])
def test_large_writes_that_pass_the_cache(tmp_path: Path, lead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are the same wherever the tensor begins; whole pages go by the file's second descriptor."""
    layout, data = _large(tmp_path, lead)
    sizes: dict[int, int] = {}
    real = os.pwrite

    def counted(descriptor: int, view: memoryview, offset: int) -> int:
        sizes[descriptor] = sizes.get(descriptor, 0) + len(view)
        return real(descriptor, view, offset)

    writer = ShardWriter(tmp_path, layout)
    monkeypatch.setattr(os, "pwrite", counted)
    writer.write("lead", 0, np.full(lead, 7, np.uint8))
    for start, stop in ((524288, 1 << 20), (0, 524288)):
        assert (data[start:].ctypes.data - writer.phase("large", start)) % 4096 == 0
        writer.write("large", start, data[start:stop])
    writer.seal()
    direct = writer._direct[0]
    writer.close()
    found = load_file(tmp_path / "model.safetensors")
    assert np.array_equal(found["large"], data)
    assert (found["lead"] == 7).all()
    if direct is not None:  # else the filesystem knows no other way than through the cache
        assert 2 * (524288 - 8192) <= sizes[direct] <= 1 << 20


def test_filesystems_that_refuse_to_pass_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal is met once, and everything goes through the cache, with the same bytes."""
    layout, data = _large(tmp_path, 5)
    writer = ShardWriter(tmp_path, layout)
    if writer._direct[0] is None:
        pytest.skip("this filesystem cannot be opened past the cache")
    real, refused = os.pwrite, []

    def refusing(descriptor: int, view: memoryview, offset: int) -> int:
        if descriptor == writer._direct[0]:
            refused.append(offset)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, view, offset)

    monkeypatch.setattr(os, "pwrite", refusing)
    writer.write("lead", 0, np.zeros(5, np.uint8))
    writer.write("large", 0, data[: 1 << 19])
    writer.write("large", 1 << 19, data[1 << 19 :])
    writer.seal()
    writer.close()
    assert len(refused) == 1
    assert np.array_equal(load_file(tmp_path / "model.safetensors")["large"], data)
