"""The table of coefficients of a recipe, and the recipe with other numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import eutectic
from eutectic.errors import RecipeError
from eutectic.search import coefficients
from eutectic.search.coefficients import check_recipe, coefficients_of, heads_of, written
from tests.make.checkpoints import write_model

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": False}
NAMES = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"]
NAMES += ["model.norm.weight", "lm_head.weight"]


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    """Makes recipes over two models named a and b."""
    for number, name in enumerate(("base", "a", "b")):
        write_model(tmp_path / name, {key: torch.full((4, 4), float(number)) for key in NAMES}, CONFIG)

    def make(method: Any = "task_arithmetic", **more: Any) -> eutectic.Recipe:
        models = [{"model": str(tmp_path / name), "name": name, **more.pop(name, {})} for name in "ab"]
        more = {"calibration": {"data": "texts.jsonl"}, **more}
        return eutectic.merge(models, base=tmp_path / "base", method=method, **more)

    return make


def table(made: eutectic.Recipe, by: Any, start: float | None = None) -> Any:
    """Returns the table of a recipe's plan."""
    return coefficients_of(eutectic.plan(made), made, by, start)


def merged(made: eutectic.Recipe, out: Path) -> dict[str, float]:
    """The first element of every merged tensor: 1 times a's weight and 2 times b's."""
    eutectic.run(eutectic.plan(made), out=out)
    return {name: float(tensor[0, 0]) for name, tensor in load_file(out / "model.safetensors").items()}


def test_by_tensor(recipe: Any, tmp_path: Path) -> None:
    """A rule for each tensor and model: 0.1 k + 2 (0.2 k) for the k-th."""
    made = recipe()
    found = table(made, "tensor")
    assert set(found.labels) == set(NAMES)
    numbers = [(0.1 * (NAMES.index(label) + 1), 0.2 * (NAMES.index(label) + 1)) for label in found.labels]
    got = merged(written(made, found, numbers), tmp_path / "out")
    assert got == {name: pytest.approx(0.5 * (at + 1)) for at, name in enumerate(NAMES)}


def test_by_block_and_behind_rules_of_its_own(recipe: Any, tmp_path: Path) -> None:
    """Before, blocks and behind; what the recipe's own rules say of weights is overruled."""
    made = recipe(rules=[{"match": "*", "models": ["b"], "set": {"weight": 9}}])
    found = table(made, "block")
    assert set(found.labels) == {"before", "0", "1", "behind"}
    assert set(found.start) == {(1.0, 9.0)}
    numbers = {"before": (1.0, 0.0), "0": (0.0, 1.0), "1": (0.5, 0.5), "behind": (0.25, 0.0)}
    got = merged(written(made, found, [numbers[label] for label in found.labels]), tmp_path / "out")
    assert [got[name] for name in NAMES] == [1.0, 2.0, 1.5, 0.25, 0.25]


def test_by_model_the_weights_stand_at_the_models(recipe: Any, tmp_path: Path) -> None:
    """In the place of those that stand there; the chain's own are overruled."""
    made = recipe({"task_arithmetic": {"weight": 0.7}}, a={"weight": 0.1})
    found = table(made, "model")
    assert found.start == ((0.1, 0.7),)
    learned = written(made, found, [(0.1234567, 0.5)])
    assert [dict(entry.parameters) for entry in learned.models] == [{"weight": 0.123457}, {"weight": 0.5}]
    assert merged(learned, tmp_path / "out") == dict.fromkeys(NAMES, pytest.approx(1.123457))
    with pytest.raises(RecipeError, match="expected no rule that sets a weight"):
        check_recipe(recipe(rules=[{"role": "norm", "set": {"weight": 1}}]), "model")


def test_names_that_look_like_patterns(recipe: Any) -> None:
    """Match themselves alone."""
    made = recipe()
    found = table(made, "tensor")
    odd = type(found)("tensor", {"a[0]*": 0}, ("a[0]*",), ((0.3, 0.3),), {"a[0]*": 1.0})
    assert written(made, odd, [(0.1, 0.2)]).rules[0].match == ("a[[]0][*]",)


def test_heads_are_what_a_rule_keeps_out(recipe: Any) -> None:
    """By role; embeddings that are kept are the output's."""
    kept = recipe(rules=[{"match": ["lm_head*", "*embed*"], "keep": "base"}])
    assert heads_of(eutectic.plan(kept)) == ["lm_head.weight"]
    assert heads_of(eutectic.plan(recipe())) == []


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"calibration": None}, "add calibration"),
        ({"method": "linear"}, "a chain that ends in task_arithmetic"),
        ({"slices": [{"sources": [{"model": name, "blocks": [0, 2]} for name in "ab"]}]}, "found slices"),
    ],
)
def test_what_cannot_be_learned(recipe: Any, more: Any, match: str) -> None:
    """Is said from the recipe alone."""
    with pytest.raises(RecipeError, match=match):
        check_recipe(recipe(**more), "tensor")


def test_too_many_for_a_recipe(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are fewer."""
    monkeypatch.setattr(coefficients, "MOST_RULES", 8)
    with pytest.raises(RecipeError, match="5 x 2 coefficients are more than the 8 rules"):
        table(recipe(), "tensor")
    assert len(table(recipe(), "block").labels) == 4
