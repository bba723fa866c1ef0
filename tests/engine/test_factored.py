from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import eutectic
from eutectic.checkpoint.spec import DTYPES
from eutectic.engine.factored import FactoredSource, Loss, Maker, fitted, ranks_for, summary
from eutectic.errors import CheckpointError
from tests.make.adapters import factors, read, write_adapter
from tests.make.factors import updates
from tests.plan.test_factored import opened, sites


def test_updates_are_fitted_to_their_rank() -> None:
    """Cut where they have more, filled with zeros where they have fewer, kept as they are where they fit."""
    (update,) = updates(1, (7, 9), (3,))
    same = fitted(update, 3)
    assert torch.equal(same.factors.a, update.a)
    assert same.error == 0
    wider = fitted(update, 5)
    assert wider.factors.rank == 5
    assert torch.equal(wider.factors.dense(), update.dense())
    for made in (update, update.dense()):
        cut = fitted(made, 2)
        tail = float(torch.linalg.svdvals(update.dense())[2])
        assert cut.factors.rank == 2
        assert cut.error == pytest.approx(tail)


def test_factors_are_read_in_any_ranges_and_made_once(tmp_path: Path) -> None:
    """The source is a file to whoever reads it; its losses are those of all modules."""
    models = opened(tmp_path, 2, 3)
    made = sites(models, output={"form": "adapter", "rank": 2})
    source = FactoredSource(made, Maker(models, 0, False), models, "made")
    name = made[0].specs[0].name
    whole = read(source, name)
    part = np.empty(5 * 4, np.uint8)
    source.read_into(name, 3, part)
    assert part.view(np.float32).tolist() == whole.reshape(-1)[3:8].tolist()
    losses = source.losses()
    assert set(losses) == {"layers.0.q.weight", "layers.1.q.weight"}
    assert losses["layers.0.q.weight"].error > 0 == losses["layers.1.q.weight"].error
    assert source.fingerprint() == FactoredSource(made, Maker(models, 0, False), models, "other").fingerprint()


def test_an_error_gives_every_module_its_rank(tmp_path: Path) -> None:
    """The adapters share their first rows of A, so that the sum has rank 3; the second module is one's, of rank 2."""
    models = opened(tmp_path, 2, 3)
    plain = sites(models, output={"form": "adapter", "error": 1e-6})
    found = ranks_for(plain, Maker(models, 0, False), 1e-6, None, 2)
    assert [site.rank for site in found] == [3, 2]
    assert [site.rank for site in ranks_for(plain, Maker(models, 0, False), 1e-6, 2, 1)] == [2, 2]


def test_losses_add_up() -> None:
    """Errors 3 and 4 of norms 6 and 8 are 5 of 10."""
    found = summary({"a": Loss(2, 6.0, 3.0), "b": Loss(1, 8.0, 4.0), "c": Loss(1, 0.0, 0.0)})
    assert (found["relative_error"], found["norm"]) == (0.5, 10.0)
    assert found["tensors"]["c"] == {"rank": 1, "relative_error": 0.0}


def test_values_that_overflow_the_output_are_refused(tmp_path: Path) -> None:
    """float16 ends at 65504; the message says which type holds them."""
    tensors = {name: value * 1e6 for name, value in factors("q", 4, 5).items()}
    folder = write_adapter(tmp_path / "a", tensors)
    plan = eutectic.plan(eutectic.merge_adapters([folder], dtype="float16"))
    with pytest.raises(CheckpointError, match="float32"):
        eutectic.run(plan, tmp_path / "out")
    assert DTYPES["F16"].bits == 16


def test_broken_factors_stop_the_run(tmp_path: Path) -> None:
    """NaN is named by file and tensor, and no folder appears."""
    tensors = factors("q", 4, 5)
    tensors["base_model.model.q.lora_B.weight"][0, 0] = np.nan
    folder = write_adapter(tmp_path / "a", tensors)
    with pytest.raises(CheckpointError, match=r"lora_B.*nan"):
        eutectic.run(eutectic.plan(eutectic.merge_adapters([folder])), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_threads_work_ahead_and_make_the_same_bytes(tmp_path: Path) -> None:
    """More modules than are kept, one, two and four threads: equal files."""
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for block in range(24):
        tensors |= factors(f"layers.{block}.q", 40, 30, rank=3, seed=block)
    folder = write_adapter(tmp_path / "a", tensors, r=3)
    found = set()
    for threads in (1, 2, 4):
        plan = eutectic.plan(eutectic.merge_adapters([folder], weights=[0.7], rank=2), threads=threads)
        eutectic.run(plan, tmp_path / str(threads))
        found.add((tmp_path / str(threads) / "adapter_model.safetensors").read_bytes())
    assert len(found) == 1
