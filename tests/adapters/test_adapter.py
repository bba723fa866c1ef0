from pathlib import Path

import numpy as np
import pytest

from eutectic.adapters.adapter import Adapter
from eutectic.adapters.config import load_config, read_config
from eutectic.adapters.edits import Edit
from eutectic.adapters.stored import Pair
from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.errors import CheckpointError
from tests.make.adapters import write_adapter
from tests.make.checkpoints import write_file


def adapter(folder: Path, with_base: bool = True) -> Adapter:
    """Returns an adapter of hand-made values on a base `x` of ones, (2, 2)."""
    tensors = {"A": np.array([[1, 2]]), "B": np.array([[1], [10]]), "full": np.array([[5, 6], [7, 8]])}
    tensors |= {"m": np.array([5, 13]), "s": np.array([1, -1])}
    write_adapter(folder, {name: value.astype(np.float32) for name, value in tensors.items()})
    base = SafetensorsFile(write_file(folder / "base.safetensors", {"x": np.ones((2, 2), np.float32)}))
    file = SafetensorsFile(folder / "adapter_model.safetensors")
    return Adapter(file, read_config(*load_config(folder)), {}, base if with_base else None)


PAIR = Pair("A", "B", 3.0, False)  # the update is 3 * [[1, 2], [10, 20]]


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (Edit("x", (2, 2), pair=PAIR), [4, 7, 31, 61]),
        (Edit("x", (2, 2), full="full"), [5, 6, 7, 8]),
        (Edit("x", (2, 2), full="full", pair=PAIR), [8, 12, 37, 68]),
        (Edit("x", (2,), shift=("s", 0.5)), [1.5, 0.5]),
    ],
)
def test_weights_and_differences(edit: Edit, expected: list[float], tmp_path: Path) -> None:
    """Full tensors first, then updates; the difference is what is left over the base's ones."""
    evaluated = adapter(tmp_path)
    weights, deltas = np.empty(len(expected), np.float32), np.empty(len(expected), np.float32)
    evaluated.weights(edit, 0, weights)
    evaluated.deltas(edit, 0, deltas)
    assert weights.tolist() == expected
    assert deltas.tolist() == [value - 1 for value in expected]


@pytest.mark.parametrize("by_column", [False, True])
def test_dora_sets_lengths(by_column: bool, tmp_path: Path) -> None:
    """After DoRA each output (row, or column where stored (in, out)) has the stored length and the old direction."""
    edit = Edit("x", (2, 2), pair=Pair("A", "B", 3.0, by_column), magnitude="m")
    evaluated = adapter(tmp_path)
    plain, scaled = np.empty(4, np.float32), np.empty(4, np.float32)
    evaluated.weights(Edit("x", (2, 2), pair=edit.pair), 0, plain)
    evaluated.weights(edit, 0, scaled)
    axis = 0 if by_column else 1
    lengths = np.linalg.norm(scaled.reshape(2, 2), axis=axis)
    np.testing.assert_allclose(lengths, [5, 13], rtol=1e-6)
    ratio = (scaled / plain).reshape(2, 2)
    np.testing.assert_allclose(ratio.max(axis=axis), ratio.min(axis=axis), rtol=1e-6)


def test_without_a_base(tmp_path: Path) -> None:
    """A plain update needs no base; asking for weights does."""
    evaluated, out = adapter(tmp_path, with_base=False), np.empty(4, np.float32)
    evaluated.deltas(Edit("x", (2, 2), pair=PAIR), 0, out)
    assert out.tolist() == [3, 6, 30, 60]
    with pytest.raises(CheckpointError, match="depends on the base"):
        evaluated.weights(Edit("x", (2, 2), pair=PAIR), 0, out)


def test_read_cost_counts_what_is_read(tmp_path: Path) -> None:
    """Both factors, the full tensor and the magnitudes, in bytes."""
    edit = Edit("x", (2, 2), full="full", pair=PAIR, magnitude="m")
    assert adapter(tmp_path).read_cost(edit) == 4 * (2 + 2 + 4 + 2)
