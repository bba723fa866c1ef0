"""Weights found by scoring merges."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import eutectic

UPDATES = {"base": "base", "models": ["code", "maths"], "method": "task_arithmetic"}


def nearness(folder: Path) -> float:
    """Scores a model by how near it is to base + 0.75 (code - base) - 0.25 (maths - base)."""
    base, code, maths, found = (load_file(Path(p) / "model.safetensors") for p in ("base", "code", "maths", folder))
    error = size = 0.0
    for name, start in base.items():
        first, second, own = (each[name].double() - start.double() for each in (code, maths, found))
        error += float((0.75 * first - 0.25 * second - own).square().sum())
        size += float(first.square().sum())
    return -error / size


def test_weights_are_found(here: Path) -> None:
    """The mixture that scores best is found, and written with its recipe; nothing else is left."""
    found = eutectic.search_weights({**UPDATES, "output": {"dtype": "float32"}}, nearness, out="mix", penalty=0.0)
    assert found.weights == pytest.approx((0.75, -0.25), abs=0.02)
    assert nearness(here / "mix") == found.score == max(trial.score for trial in found.trials)
    assert len(found.trials) <= 40
    assert found.receipt.job == eutectic.plan(found.recipe).job
    assert eutectic.verify("mix", sample=None).ok
    assert {path.name for path in here.iterdir() if "mix" in path.name} == {"mix"}
    assert [entry.parameters for entry in found.recipe.models] == [{"weight": weight} for weight in found.weights]


def test_factors_of_adapters(here: Path) -> None:
    """LoraHub sums A and B apart: weights w on one adapter give w^2 of its update, so w = 0.5 gives a quarter."""
    del here
    recipe = {"models": ["style-lora"], "method": ["factorwise", "task_arithmetic"], "output": {"form": "adapter"}}

    def update(folder: Path | str) -> Any:
        stored = load_file(Path(folder) / "adapter_model.safetensors")
        name = min(key for key in stored if "lora_A" in key)
        return stored[name.replace("lora_A", "lora_B")].double() @ stored[name].double()

    whole = update(merged("whole", {**recipe, "models": [{"model": "style-lora", "weight": 1.0}]}))

    def score(folder: Path) -> float:
        return -float((update(folder) - whole / 4).norm() / whole.norm())

    found = eutectic.search_weights(recipe, score, out="hub", budget=30, penalty=0.0)
    assert abs(found.weights[0]) == pytest.approx(0.5, abs=0.02)
    assert found.trials[0].weights == (0.0,)


def merged(out: str, recipe: dict[str, Any]) -> str:
    """Runs a recipe."""
    eutectic.run(eutectic.plan(recipe), out=out)
    return out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"method": {"ties": {"density": 0.5}}, "models": [{"model": "code", "weight": 1.0}, "maths"]},
            "take those out",
        ),
        ({"method": {"task_arithmetic": {"weight": 0.4}}}, "take those out"),
        ({"method": {"slerp": {"t": 0.5}}, "models": ["code"]}, "expected a step that has a weight"),
        ({"models": ["code", "nowhere"]}, "nowhere"),
    ],
)
def test_what_cannot_be_searched(change: dict[str, Any], message: str, here: Path) -> None:
    """It is said before anything is merged."""
    del here
    asked: list[Path] = []
    with pytest.raises(eutectic.EutecticError, match=message):
        eutectic.search_weights({**UPDATES, **change}, lambda folder: asked.append(folder) or 0.0, out="mix")  # type: ignore[func-returns-value]
    assert not asked


def test_an_output_that_is_taken(here: Path) -> None:
    """Nothing is merged into it, or scored."""
    del here
    with pytest.raises(eutectic.OutputError, match="new or empty folder"):
        eutectic.search_weights(UPDATES, nearness, out="base")
