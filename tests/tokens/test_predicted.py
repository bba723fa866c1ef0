"""Rows predicted by donors: which rows are read, and what is held."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.tokens.predicted import Guide, Predicted
from eutectic.tokens.rows import Given
from tests.make.checkpoints import write_file


def given(path: Path, value: Tensor) -> Given:
    """Writes a file with one tensor and opens it."""
    return Given(SafetensorsFile(write_file(path, {"e": value})), "e")


def ids(*numbers: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """Returns row numbers."""
    return np.array(numbers, np.int32)


def total(targets: Tensor, there: Tensor, here: Tensor) -> Tensor:
    """A rule whose result tells what it was given: targets' first numbers plus the sum of the shared rows' products."""
    return targets[:, :1] + (there[:, :1] * here).sum(0)


def test_guides_one_after_the_other(tmp_path: Path) -> None:
    """Each guide's targets follow the last one's; rows are read by their numbers, in the given order."""
    own = given(tmp_path / "own.safetensors", torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    first = given(tmp_path / "a.safetensors", torch.tensor([[10.0], [20.0], [30.0]]))
    second = given(tmp_path / "b.safetensors", torch.tensor([[5.0, 0.0], [7.0, 0.0]], dtype=torch.bfloat16))
    guides = [Guide(first, ids(0, 2), ids(1, 0), ids(1)), Guide(second, ids(0), ids(0), ids(1, 0))]
    predicted = Predicted(own, guides, total, "total")
    # 20 + 10 (3, 4) + 30 (1, 2); then 7 + 5 (1, 2) and 5 + 5 (1, 2)
    assert predicted.rows().tolist() == [[80.0, 120.0], [12.0, 17.0], [10.0, 15.0]]
    assert predicted.rows() is predicted.rows()
    # Kept: 3 rows of 2 floats; at work: 2 shared rows of 1 + 2 doubles and a target of as many, or 1 and 2 of 2 + 2.
    assert predicted.nbytes == 3 * 2 * 4 + 2 * 8 * max(2 * 3 + 1 * 3, 1 * 4 + 2 * 4)


def test_digest(tmp_path: Path) -> None:
    """Another rule, or another table, is another result."""
    own = given(tmp_path / "own.safetensors", torch.ones(2, 2))
    guide = Guide(own, ids(0), ids(0), ids(1))
    digests = {
        Predicted(own, [guide], total, "one").digest(),
        Predicted(own, [guide], total, "two").digest(),
        Predicted(own, [Guide(own, ids(1), ids(0), ids(1))], total, "one").digest(),
    }
    assert len(digests) == 3
