from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.checkpoint.source import Source
from eutectic.checkpoint.views import Run, Shown, View, renamed, rows, selected, split, stacked
from eutectic.errors import CheckpointError
from tests.make.checkpoints import entry, raw_bytes, read, write_file

QKV = np.arange(24, dtype=np.float32).reshape(6, 4)
EXPERTS = [np.full((2, 3), number, np.float16) for number in range(3)]
TENSORS = {"qkv": QKV, "e0": EXPERTS[0], "e1": EXPERTS[1], "e2": EXPERTS[2], "bias": np.array(5.0)}


@pytest.fixture
def source(tmp_path: Path) -> SafetensorsFile:
    """A file with a fused tensor, three experts and a 0-d tensor."""
    return SafetensorsFile(write_file(tmp_path / "x.safetensors", TENSORS))


def values(source: Source, name: str) -> np.ndarray:
    """Returns a whole tensor."""
    spec = source.header[name]
    return read(source, name).view({"F64": "f8", "F32": "f4", "F16": "f2"}[spec.dtype.name]).reshape(spec.shape)


def test_renamed(source: Source) -> None:
    """Old names go, new ones come, the rest stays; swapping two names is fine."""
    view = renamed(source, {"qkv": "attention", "e0": "e1", "e1": "e0"})
    assert set(view.header) == {"attention", "e0", "e1", "e2", "bias"}
    assert view.header["attention"].name == "attention"
    np.testing.assert_array_equal(values(view, "attention"), QKV)
    np.testing.assert_array_equal(values(view, "e0"), EXPERTS[1])
    assert values(view, "bias") == 5


def test_selected(source: Source) -> None:
    """Only what is named, in that order."""
    assert list(selected(source, ["e2", "bias"]).header) == ["e2", "bias"]


def test_rows(source: Source) -> None:
    """A range of rows, and no rows at all."""
    view = rows(source, {"qkv": (1, 3), "e0": (2, 2)})
    np.testing.assert_array_equal(values(view, "qkv"), QKV[1:3])
    assert view.header["e0"].shape == (0, 3)
    assert values(view, "e0").size == 0
    assert view.read_cost("qkv") == 32
    assert view.read_cost("e0") == 0


def test_split(source: Source) -> None:
    """A fused tensor is shown as its parts, in its place."""
    view = split(source, {"qkv": {"q": 3, "k": 1, "v": 2}})
    np.testing.assert_array_equal(values(view, "q"), QKV[:3])
    np.testing.assert_array_equal(values(view, "k"), QKV[3:4])
    np.testing.assert_array_equal(values(view, "v"), QKV[4:])
    assert "qkv" not in view.header
    assert sum(view.read_cost(name) for name in "qkv") == QKV.nbytes


def test_stacked(source: Source) -> None:
    """Parts are joined along their first axis or a new one, in the order given, and no longer shown."""
    view = stacked(source, {"all": ["e2", "e0", "e1"]})
    np.testing.assert_array_equal(values(view, "all"), np.concatenate([EXPERTS[2], EXPERTS[0], EXPERTS[1]]))
    assert set(view.header) == {"qkv", "all", "bias"}
    view = stacked(source, {"all": ["e0", "e1", "e2"]}, new_axis=True)
    np.testing.assert_array_equal(values(view, "all"), np.stack(EXPERTS))
    assert view.read_cost("all") == sum(expert.nbytes for expert in EXPERTS)


def test_splitting_undoes_stacking(source: Source) -> None:
    """Views go over views, and their names tell the whole way."""
    view = split(stacked(source, {"all": ["e0", "e1", "e2"]}), {"all": {"e0": 2, "e1": 2, "e2": 2}})
    assert view.name.endswith("x.safetensors (stacked) (split)")
    for name in source.header:
        assert read(view, name).tobytes() == read(source, name).tobytes()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: renamed(s, {"qvk": "x"}), "no tensor 'qvk'; did you mean 'qkv'"),
        (lambda s: renamed(s, {"qkv": "e0"}), "two tensors would have one name"),
        (lambda s: selected(s, ["none"]), "x.safetensors: there is no tensor 'none'"),
        (lambda s: rows(s, {"qkv": (3, 7)}), r"'qkv' \[6, 4\] has no rows 3 to 7"),
        (lambda s: rows(s, {"qkv": (3, 2)}), "no rows 3 to 2"),
        (lambda s: rows(s, {"bias": (0, 1)}), r"'bias' \[\] has no rows"),
        (lambda s: rows(s, {"none": (0, 1)}), "no tensor 'none'"),
        (lambda s: split(s, {"qkv": {"q": 3, "k": 2}}), "cannot be split into 5 rows"),
        (lambda s: split(s, {"qkv": {"q": 7, "k": -1}}), "has no rows"),
        (lambda s: split(s, {"bias": {"q": 1}}), r"'bias' \[\] cannot be split"),
        (lambda s: split(s, {"none": {"q": 1}}), "no tensor 'none'"),
        (lambda s: stacked(s, {"x": ["e0", "none"]}), "no tensor 'none'"),
        (lambda s: stacked(s, {"x": ["qkv", "e0"]}), "'x' cannot be stacked from 'qkv'"),
        (lambda s: stacked(s, {"x": ["bias", "bias"]}), "'x' cannot be stacked"),
        (lambda s: stacked(s, {"qkv": ["e0", "e1"]}), "two tensors would have one name"),
        (lambda s: View(s, [Shown(s.header["qkv"], (Run("qkv", 0, 23),))], "cut"), "would not have the elements"),
        (lambda s: View(s, [Shown(s.header["qkv"], (Run("qkv", 1, 25),))], "cut"), "would reach outside of 'qkv'"),
        (lambda s: View(s, [Shown(s.header["qkv"], (Run("e0", 0, 6),))], "cut"), "would mix F32 with F16 of 'e0'"),
    ],
    ids=(str(number) for number in range(18)),
)
def test_views_that_cannot_be(source: Source, make: Callable[[Source], Source], message: str) -> None:
    """What does not exist or does not fit is refused when the view is made, not when it is read."""
    with pytest.raises(CheckpointError, match=message):
        make(source)


def test_bytes_are_not_cut(tmp_path: Path) -> None:
    """Rows of packed 4-bit elements that begin inside a byte cannot be shown."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw_bytes({"q": entry("F4", [2, 3], 0, 3)}, b"abc"))
    with pytest.raises(CheckpointError, match=r"would cut 'q' \(F4\) inside a byte"):
        rows(SafetensorsFile(path), {"q": (0, 1)})


def test_fingerprints_tell_views_apart(source: Source) -> None:
    """What is shown counts as much as what is under it."""
    views = [source, rows(source, {"qkv": (0, 3)}), rows(source, {"qkv": (3, 6)}), renamed(source, {"qkv": "x"})]
    assert len({view.fingerprint() for view in views}) == 4
    assert views[1].fingerprint() == rows(source, {"qkv": (0, 3)}).fingerprint()
