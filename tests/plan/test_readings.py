"""How often sites are read, by hand: held, swept, and statistics over the model."""

from pathlib import Path

import pytest
import torch

import eutectic
from eutectic.plan.readings import readings
from eutectic.plan.spans import work_doubles
from eutectic.plan.steps import Schedule
from tests.make.checkpoints import write_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two models with one tensor of a million elements and one of ten."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "a", "b")):
        draw = torch.Generator().manual_seed(seed)
        tensors = {"large": torch.randn(1000, 1000, generator=draw), "small": torch.randn(10, generator=draw)}
        write_model(folder / name, tensors, {})
    return folder


def counts(models: Path, method: object, resident_bytes: int) -> list[float]:
    """Plans a recipe and returns its readings when sites of so many bytes may be held."""
    recipe = eutectic.merge([models / "a", models / "b"], base=models / "base", method=method)
    plan = eutectic.plan(recipe)
    return readings(plan.merged, work_doubles(recipe, plan.merged), Schedule(1, 65536, resident_bytes, 1))


def test_no_statistics(models: Path) -> None:
    """An average is read once."""
    assert counts(models, "linear", 0) == [1.0, 1.0]


def test_held_and_swept(models: Path) -> None:
    """A Gram of a held tensor costs no sweep (3 rows of 4 MB are held), of a swept one it costs one."""
    assert counts(models, "model_stock", 1 << 24) == [1.0, 1.0]
    assert counts(models, "model_stock", 1 << 20) == [2.0, 1.0]


def test_over_the_model(models: Path) -> None:
    """A cut over 1,000,010 elements is guessed from one in 1000010 // 131072 = 7, then counted once."""
    assert counts(models, "ties", 1 << 24) == pytest.approx([2 + 1 / 7] * 2)


def test_after_one_another(models: Path) -> None:
    """The majority of a tie is one sweep more than the cut it comes after."""
    assert counts(models, {"ties": {"tie": "majority"}}, 1 << 24) == pytest.approx([3 + 1 / 7] * 2)


def test_small_scopes(models: Path) -> None:
    """A tensor of ten is counted coarsely, then finely, unless it is held."""
    assert counts(models, {"ties": {"scope": "tensor"}}, 0)[1] == 3.0
    assert counts(models, {"ties": {"scope": "tensor"}}, 1 << 10)[1] == 1.0


def test_sums_of_one_level_share_a_sweep(models: Path) -> None:
    """DARE's L1 rescaling takes two sums of a tensor; swept, they cost one reading and the merge another."""
    dare = [{"dare": {"density": 0.5, "rescale": "l1"}}, "task_arithmetic"]
    assert counts(models, dare, 0) == [2.0, 2.0]
    assert counts(models, dare, 1 << 24) == [1.0, 1.0]
