"""What every source promises, held against all of them."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eutectic.checkpoint.cast import Cast
from eutectic.checkpoint.permuted import Permuted
from eutectic.checkpoint.pickled import PickledFile
from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.checkpoint.sharded import open_shards
from eutectic.checkpoint.source import Source
from eutectic.checkpoint.spec import DTYPES
from eutectic.checkpoint.views import renamed, rows, selected, split, stacked
from eutectic.errors import CheckpointError
from tests.make.checkpoints import read, write_file, write_model

TENSORS = {
    "a": torch.arange(35, dtype=torch.float32).reshape(7, 5),
    "b": torch.arange(10, 25, dtype=torch.float32).reshape(3, 5),
    "c": torch.arange(12, dtype=torch.bfloat16).reshape(2, 3, 2),
    "s": torch.tensor(3, dtype=torch.int64),
    "e": torch.zeros(0, 5),
}


def sharded(folder: Path) -> Source:
    """A folder of three shards."""
    source = open_shards(write_model(folder, TENSORS, shards=3))
    assert source is not None
    return source


def pickled(folder: Path) -> Source:
    """A torch file, one tensor of it transposed."""
    torch.save(
        TENSORS | {"t": TENSORS["a"].T, "p": torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)}, folder / "x.pt"
    )
    return PickledFile(folder / "x.pt")


def single(folder: Path) -> SafetensorsFile:
    """One safetensors file."""
    return SafetensorsFile(write_file(folder / "x.safetensors", TENSORS))


SOURCES: dict[str, Callable[[Path], Source]] = {
    "file": single,
    "sharded": sharded,
    "pickled": pickled,
    "renamed": lambda folder: renamed(single(folder), {"a": "x"}),
    "selected": lambda folder: selected(single(folder), ["c", "a"]),
    "rows": lambda folder: rows(single(folder), {"a": (2, 6), "c": (1, 2)}),
    "split": lambda folder: split(single(folder), {"a": {"q": 3, "none": 0, "k": 4}}),
    "stacked": lambda folder: stacked(single(folder), {"ab": ["b", "e", "a", "b"]}),
    "permuted": lambda folder: Permuted(single(folder), {"a": np.array([3, 4, 5, 0, 0, 6, 1]), "e": np.array([], int)}),
    "cast": lambda folder: Cast(single(folder), DTYPES["F64"]),
    "deep": lambda folder: rows(
        Permuted(stacked(single(folder), {"ab": ["a", "b"]}), {"ab": np.arange(10)[::-1]}), {"ab": (1, 9)}
    ),
}


@pytest.fixture(scope="module", params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """One of each kind."""
    return SOURCES[request.param](tmp_path_factory.mktemp(request.param))


@given(data=st.data())
def test_any_range_is_a_slice_of_the_whole(source: Source, data: st.DataObject) -> None:
    """Whatever range is asked for, it is bit for bit what the whole tensor has there."""
    name = data.draw(st.sampled_from(sorted(source.header)))
    spec = source.header[name]
    start = data.draw(st.integers(0, spec.numel))
    stop = data.draw(st.integers(start, spec.numel))
    size = spec.dtype.bits // 8
    source.will_need(name, start, stop)
    assert read(source, name, start, stop).tobytes() == read(source, name)[start * size : stop * size].tobytes()


def test_headers_name_their_tensors(source: Source) -> None:
    """Every spec carries the name it is listed under, and a whole tensor costs a read unless it is empty."""
    for name, spec in source.header.items():
        assert spec.name == name
        assert (source.read_cost(name) > 0) == (spec.numel > 0)


def test_unknown_names_are_refused(source: Source) -> None:
    """A tensor that is not there is an error with its name, whatever is asked of it."""
    with pytest.raises(CheckpointError, match="no tensor 'nowhere'"):
        source.read_into("nowhere", 0, np.empty(4, np.uint8))
    with pytest.raises(CheckpointError, match="no tensor 'nowhere'"):
        source.read_cost("nowhere")


def test_ranges_outside_are_refused(source: Source) -> None:
    """Reading past the end is our own bug, and never another tensor's bytes."""
    for name, spec in source.header.items():
        with pytest.raises(ValueError, match="not a range"):
            source.read_into(name, spec.numel, np.empty(spec.dtype.bits // 8, np.uint8))


def test_threads_read_the_same(source: Source) -> None:
    """Four threads that read everything at once get what one gets."""
    expected = {name: read(source, name).tobytes() for name in source.header}
    found: list[dict[str, bytes]] = []

    def work() -> None:
        found.append({name: read(source, name).tobytes() for name in source.header})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


@pytest.mark.parametrize("kind", SOURCES)
def test_changes_and_closing_are_noticed(kind: str, tmp_path: Path) -> None:
    """A file that somebody wrote to, and a source that was closed, are errors."""
    source = SOURCES[kind](tmp_path)
    source.check_unchanged()
    assert source.fingerprint() == source.fingerprint()
    for path in tmp_path.glob("*.*"):
        with path.open("ab") as file:
            file.write(b"x")
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        source.check_unchanged()
    source.close()
    source.close()
    with pytest.raises(CheckpointError, match="closed"):
        read(source, next(name for name, spec in source.header.items() if spec.numel))
