"""Aggregation of clients' adapters: recipes that are what their schemes say."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import eutectic
from eutectic import RecipeError
from tests.make.adapters import factors, write_adapter, write_base

COUNTS = (100, 50, 250)
NAME = "layers.0.q"


@pytest.fixture
def clients(tmp_path: Path) -> list[Path]:
    """Three adapters of ranks 2, 3 and 2, all of scale 2 on one module of 12 x 10."""
    ranks = (2, 3, 2)
    return [
        write_adapter(tmp_path / f"c{k}", factors(NAME, 12, 10, rank, seed=k), r=rank, lora_alpha=2 * rank)
        for k, rank in enumerate(ranks)
    ]


def update(folder: Path) -> np.ndarray:  # type: ignore[type-arg]
    """Returns B A of an adapter's file."""
    stored = load_file(folder / "adapter_model.safetensors")
    stem = f"base_model.model.{NAME}"
    return np.asarray(stored[f"{stem}.lora_B.weight"].astype(float) @ stored[f"{stem}.lora_A.weight"].astype(float))


def average(clients: list[Path]) -> np.ndarray:  # type: ignore[type-arg]
    """Returns the average of the updates by sample counts."""
    return np.asarray(sum(count / sum(COUNTS) * 2 * update(each) for count, each in zip(COUNTS, clients, strict=True)))


def run(recipe: eutectic.Recipe, out: Path) -> Path:
    """Carries a recipe out."""
    eutectic.run(eutectic.plan(recipe, memory="256 MiB"), out=out)
    return out


def test_flora_is_the_exact_average(clients: list[Path], tmp_path: Path) -> None:
    """Of any ranks, without a base; the rank is the sum of the ranks where that is less than the sides."""
    made = eutectic.aggregate(clients, COUNTS)
    assert made.base is None
    assert np.allclose(update(run(made.adapter, tmp_path / "out")), average(clients), atol=1e-5)


def test_fedex_is_exact_with_its_base(clients: list[Path], tmp_path: Path) -> None:
    """Base and adapter apart are not what base plus average is; together they are. FedAvg's adapter is the same."""
    weight = np.arange(120, dtype=np.float32).reshape(12, 10) / 8
    write_base(tmp_path / "base", {f"{NAME}.weight": weight})
    made = eutectic.aggregate(clients, COUNTS, "fedex", base=tmp_path / "base")
    assert made.base is not None
    adapter = update(run(made.adapter, tmp_path / "adapter"))
    base = load_file(run(made.base, tmp_path / "new") / "model.safetensors")[f"{NAME}.weight"]
    assert np.allclose(base + adapter, weight + average(clients), atol=1e-5)
    assert not np.allclose(adapter, average(clients), atol=1e-2)
    plain = eutectic.aggregate(clients, COUNTS, "fedavg")
    assert np.array_equal(update(run(plain.adapter, tmp_path / "plain")), adapter)


def test_robustmerge_of_equal_clients_is_the_method(clients: list[Path], tmp_path: Path) -> None:
    """Equal counts are weights of 1; the rank may be bounded."""
    made = eutectic.aggregate(clients, [7, 7, 7], "robustmerge")
    plain = eutectic.merge_adapters(clients, method="robustmerge")
    folders = [run(recipe, tmp_path / f"{at}") for at, recipe in enumerate((made.adapter, plain))]
    assert np.allclose(update(folders[0]), update(folders[1]), atol=1e-6)
    small = eutectic.aggregate(clients, COUNTS, "robustmerge", rank=1)
    assert np.linalg.matrix_rank(update(run(small.adapter, tmp_path / "small"))) == 1


def test_what_does_not_fit_is_refused() -> None:
    """Counts, schemes, and what FedEx needs."""
    with pytest.raises(RecipeError, match="one sample count an upload, found 1 for 2"):
        eutectic.aggregate(["a", "b"], [1])
    for counts in ([0, 0], [-1, 2], [float("nan"), 1]):
        with pytest.raises(RecipeError, match="not all 0"):
            eutectic.aggregate(["a", "b"], counts)
    with pytest.raises(RecipeError, match="did you mean"):
        eutectic.aggregate(["a"], [1], "fedavgg")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="give base"):
        eutectic.aggregate(["a"], [1], "fedex")
