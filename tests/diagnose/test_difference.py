import math
from pathlib import Path

import numpy as np
import torch

from eutectic.api.models import open as open_model
from eutectic.diagnose.difference import TensorDifference, compare_checkpoints
from tests.make.checkpoints import Values, write_file


def compare(
    folder: Path, first: dict[str, Values], second: dict[str, Values], threads: int = 2
) -> list[TensorDifference]:
    """Writes two files and compares them."""
    paths = [write_file(folder / f"{name}.safetensors", what) for name, what in (("a", first), ("b", second))]
    one, other = (open_model(path) for path in paths)
    try:
        return compare_checkpoints(one, other, threads)
    finally:
        one.source.close()
        other.source.close()


def test_a_case_by_hand(tmp_path: Path) -> None:
    """(3, 4) and (0, 4): distance 3, relative 3/5, cosine 16 / (5 * 4) = 0.8."""
    (found,) = compare(tmp_path, {"w": np.array([3.0, 4.0])}, {"w": np.array([0.0, 4.0])})
    assert (found.name, found.distance, found.relative, found.why) == ("w", 3.0, 0.6, "")
    assert math.isclose(found.cosine, 0.8, rel_tol=1e-12)


def test_zeros(tmp_path: Path) -> None:
    """Two zeros are one direction; zero and something are none, infinitely far apart in relation to zero."""
    zero, one = np.zeros(3), np.array([0.0, 2.0, 0.0])
    found = compare(tmp_path, {"both": zero, "one": zero, "none": one[:0]}, {"both": zero, "one": one, "none": one[:0]})
    assert found == [
        TensorDifference("one", 2.0, math.inf, 0.0),
        TensorDifference("both", 0.0, 0.0, 1.0),
        TensorDifference("none", 0.0, 0.0, 1.0),
    ]


def test_types_may_differ(tmp_path: Path) -> None:
    """bfloat16 against float64: as numbers; 1.5 is in both, 1.1 is rounded to 1.1015625."""
    second = {"w": torch.tensor([1.5, 1.1], dtype=torch.bfloat16)}
    (found,) = compare(tmp_path, {"w": np.array([1.5, 1.1])}, second)
    assert math.isclose(found.distance, 0.0015625, rel_tol=1e-9)


def test_what_is_not_a_number_comes_first(tmp_path: Path) -> None:
    """A tensor with a NaN is not hidden among equal ones, and has no cosine."""
    same, broken = np.ones(2), np.array([1.0, math.nan])
    found = compare(tmp_path, {"a": same, "b": same, "c": same}, {"a": same, "b": broken, "c": same * 2})
    assert [each.name for each in found] == ["b", "c", "a"]
    assert math.isnan(found[0].distance)
    assert math.isnan(found[0].cosine)


def test_the_incomparable_comes_last_with_its_reason(tmp_path: Path) -> None:
    """Only in one, another shape, integers."""
    first = {"a": np.ones(2), "own": np.ones(1), "shape": np.ones(2), "ids": np.arange(2)}
    found = compare(tmp_path, first, {"a": np.ones(2), "shape": np.ones((2, 1)), "ids": np.arange(2)})
    assert [each.name for each in found] == ["a", "ids", "own", "shape"]
    assert [each.why for each in found[1:]] == [
        "I64 is not compared as numbers",
        f"only in {tmp_path / 'a.safetensors'}",
        "shapes differ: [2] and [2, 1]",
    ]


def test_threads_change_no_bit(tmp_path: Path) -> None:
    """A tensor of three slices: the same numbers from one thread and from four."""
    draw = np.random.default_rng(0)
    first = {"w": draw.standard_normal(1_200_000, np.float32)}
    second = {"w": first["w"] + 0.1 * draw.standard_normal(1_200_000, np.float32)}
    one, four = (compare(tmp_path, first, second, threads) for threads in (1, 4))
    assert one == four
    exact = first["w"].astype(np.float64) - second["w"].astype(np.float64)
    assert math.isclose(one[0].distance, float(np.sqrt((exact**2).sum())), rel_tol=1e-6)
