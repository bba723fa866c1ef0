from pathlib import Path

import numpy as np
import torch

from eutectic.engine.factored import Maker
from eutectic.engine.updates import UpdateSource
from tests.make.adapters import read
from tests.plan.test_factored import opened, sites


def source(tmp_path: Path, *ranks: int, **more: object) -> tuple[UpdateSource, dict[str, torch.Tensor]]:
    """Returns the summed updates of adapters as a source, and as PEFT defines them."""
    models = opened(tmp_path, *ranks)
    found = UpdateSource(sites(models, **more), Maker(models, 0, False), models, "sum", "recipe")
    expected: dict[str, torch.Tensor] = {}
    for model in models:
        for name in model.source.header:
            expected[name] = expected.get(name, torch.zeros(())) + torch.from_numpy(read(model.source, name).copy())
    return found, expected


def test_any_range_of_a_sum(tmp_path: Path) -> None:
    """Element by element what the adapters add up to."""
    found, expected = source(tmp_path, 2, 3)
    for name, value in expected.items():
        assert np.allclose(read(found, name), value, atol=1e-5)
        part = np.empty(40, np.uint8)
        found.read_into(name, 33, part)
        assert np.array_equal(part.view(np.float32), read(found, name).reshape(-1)[33:43])
    assert found.read_cost("layers.0.q.weight") == 4 * (12 + 20) * 5


def test_dense_sums_and_cut_ones(tmp_path: Path) -> None:
    """Ranks beyond the matrix's make a dense sum; a rank asked for is kept."""
    found, expected = source(tmp_path, 5, 5, 5, output={"form": "adapter", "rank": 12})
    name = "layers.0.q.weight"
    assert np.allclose(read(found, name), expected[name], atol=1e-4)
    cut, _ = source(tmp_path / "cut", 2, 3, output={"form": "adapter", "rank": 1})
    assert np.linalg.matrix_rank(read(cut, name), tol=1e-4) == 1
    assert cut.fingerprint() != found.fingerprint()
