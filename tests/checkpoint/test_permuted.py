from pathlib import Path

import numpy as np
import pytest

from eutectic.checkpoint.permuted import Permuted
from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.errors import CheckpointError
from tests.make.checkpoints import entry, raw_bytes, read, write_file

WEIGHT = np.arange(15, dtype=np.float32).reshape(5, 3)


@pytest.fixture
def source(tmp_path: Path) -> SafetensorsFile:
    """A file with a weight, its bias and a scalar."""
    tensors = {"weight": WEIGHT, "bias": np.arange(5, dtype=np.float64), "step": np.array(1)}
    return SafetensorsFile(write_file(tmp_path / "x.safetensors", tensors))


@pytest.mark.parametrize("order", [[4, 2, 3, 0, 1], [0, 1, 2, 3, 4], [1, 1, 1], [], [3]])
def test_rows_come_in_the_order_given(source: SafetensorsFile, order: list[int]) -> None:
    """The result is numpy's, also when rows repeat or are left out; other tensors are as they were."""
    view = Permuted(source, {"weight": np.array(order, np.int64)})
    assert view.header["weight"].shape == (len(order), 3)
    assert read(view, "weight").tobytes() == WEIGHT[np.array(order, int)].tobytes()
    assert read(view, "bias").tobytes() == read(source, "bias").tobytes()
    assert view.read_cost("weight") == len(order) * 12
    assert view.read_cost("bias") == 40
    view.will_need("weight", 0, 1)
    view.will_need("bias", 0, 1)


@pytest.mark.parametrize(("name", "order"), [("weight", [5]), ("weight", [-1]), ("weight", [[0]]), ("step", [0])])
def test_rows_that_do_not_exist(source: SafetensorsFile, name: str, order: list[int]) -> None:
    """An order that names no row is refused when the view is made."""
    with pytest.raises(CheckpointError, match=f"the order for '{name}' names rows outside"):
        Permuted(source, {name: np.array(order)})


def test_rows_inside_bytes(tmp_path: Path) -> None:
    """Rows of an odd number of 4-bit elements cannot move."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw_bytes({"q": entry("F4", [2, 3], 0, 3)}, b"abc"))
    with pytest.raises(CheckpointError, match="do not begin at whole bytes"):
        Permuted(SafetensorsFile(path), {"q": np.array([1, 0])})


def test_fingerprint_follows_the_order(source: SafetensorsFile) -> None:
    """Two orders are two contents."""
    one, two = (Permuted(source, {"bias": np.array(order)}) for order in ([0, 1], [1, 0]))
    assert len({source.fingerprint(), one.fingerprint(), two.fingerprint()}) == 3
