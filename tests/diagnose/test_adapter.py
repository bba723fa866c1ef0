import math
from pathlib import Path

import numpy as np
import pytest

from eutectic.adapters.lora import against, open_adapter
from eutectic.diagnose.adapter import inspect_updates
from eutectic.errors import CheckpointError
from tests.make.adapters import factors, read, write_adapter, write_base


def test_norms_are_those_of_the_products(tmp_path: Path) -> None:
    """Rank, scale, shape and norm of each update; all norms together."""
    tensors = factors("layers.0.q", 6, 5) | factors("layers.1.q", 6, 5, seed=1)
    opened = open_adapter(write_adapter(tmp_path / "a", tensors))
    found = inspect_updates(opened)
    norms = [float(np.linalg.norm(read(opened.source, each.name))) for each in found.updates]
    assert [each.norm for each in found.updates] == pytest.approx(norms, rel=1e-5)
    assert {(each.kind, each.rank, each.scale, each.shape) for each in found.updates} == {("factors", 2, 2.0, (6, 5))}
    assert found.norm == pytest.approx(math.hypot(*norms), rel=1e-5)
    assert (found.base_name, found.values) == ("org/base", 2 * 2 * (6 + 5))


def test_what_hangs_on_the_base_has_no_norm_of_its_own(tmp_path: Path) -> None:
    """DoRA's and whole tensors; a model is no adapter."""
    base = write_base(
        tmp_path / "base", {"q.weight": np.ones((6, 5), np.float32), "norm.weight": np.ones(5, np.float32)}
    )
    tensors = factors("q", 6, 5) | {
        "base_model.model.q.lora_magnitude_vector": np.ones(6, np.float32),
        "base_model.model.norm.weight": np.ones(5, np.float32),
    }
    folder = write_adapter(tmp_path / "a", tensors, use_dora=True, modules_to_save=["norm"])
    found = {each.name: each for each in inspect_updates(against(base, folder)).updates}
    assert (found["q.weight"].kind, found["norm.weight"].kind) == ("dora", "full")
    assert all(math.isnan(each.norm) for each in found.values())
    with pytest.raises(CheckpointError, match="expected an adapter"):
        inspect_updates(base)
