from pathlib import Path

import pytest

from eutectic.errors import RecipeError
from eutectic.recipe.globs import expand, is_pattern, matches
from eutectic.recipe.model import Recipe
from eutectic.recipe.parse import read_recipe


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the checkpoints of a run, whose steps have one to four digits, and files beside them."""
    for step in (1000, 2, 30, 100):
        (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)
    (tmp_path / "run" / "trainer_state.json").touch()
    (tmp_path / "what*.safetensors").touch()
    return tmp_path


def models(recipe: Recipe) -> list[str | None]:
    """Returns the references of a recipe's models."""
    return [entry.model for entry in recipe.models]


def test_in_step_order(root: Path) -> None:
    """Numbers are ordered as numbers; paths stay as they are written, relative to the recipe's folder."""
    expected = [f"run/checkpoint-{step}" for step in (2, 30, 100, 1000)]
    assert matches("run/checkpoint-*", root) == expected
    (root / "recipe.yaml").write_text("models: run/checkpoint-*\nmethod: linear\n")
    recipe = read_recipe(root / "recipe.yaml")
    assert models(recipe) == expected
    assert recipe.root == root
    assert recipe == read_recipe({"models": expected, "method": "linear"}, root=root)
    assert matches(str(root / "run/checkpoint-?"), Path("/")) == [str(root / "run/checkpoint-2")]


def test_among_others_and_within(root: Path) -> None:
    """A pattern stands where its models go, each with the values beside it; stages are looked through."""
    inner = {"recipe": {"models": ["run/checkpoint-1*", "x"], "method": "linear"}}
    data = {"models": ["x", {"model": "run/checkpoint-?0", "weight": 0.5}, inner], "method": "linear"}
    recipe = read_recipe(data, root=root)
    assert models(recipe) == ["x", "run/checkpoint-30", None]
    assert recipe.models[1].parameters == {"weight": 0.5}
    assert recipe.models[2].recipe is not None
    assert models(recipe.models[2].recipe) == ["run/checkpoint-100", "run/checkpoint-1000", "x"]


def test_a_file_of_that_name_is_no_pattern(root: Path) -> None:
    """What exists under the very name is meant."""
    assert not is_pattern("what*.safetensors", root)
    assert is_pattern("what*", root)
    assert not is_pattern("org/name@main", root)
    assert not is_pattern("run/[1]", root)


def test_nothing_to_expand_changes_nothing(root: Path) -> None:
    """A recipe without patterns is the same object."""
    recipe = Recipe.model_validate({"models": ["x"], "method": "linear"})
    assert expand(recipe, root).recipe is recipe


def test_refused(root: Path) -> None:
    """A pattern that matches nothing, by its line; one with a name; and what is wrong with the models it stands for."""
    with pytest.raises(RecipeError, match=r"line 3: models\[1\]: expected a pattern that matches models.*run/check\*"):
        read_recipe("models:\n  - x\n  - run/check*t\nmethod: linear\n".replace("check*t", "check*-x"), root=root)
    with pytest.raises(RecipeError, match=r"models\[0\].name: a name is one model's"):
        read_recipe({"models": [{"model": "run/checkpoint-*", "name": "all"}], "method": "linear"}, root=root)
    text = "models:\n  - run/checkpoint-*\n  - {model: y, t: 1}\nmethod: {slerp: {t: 0.5}}\n"
    with pytest.raises(RecipeError) as caught:
        read_recipe(text, root=root)
    assert "line 3: models[1].t: t is one value for all models" in str(caught.value)
    assert "slerp takes exactly 2 models, found 5" in str(caught.value)
    with pytest.raises(RecipeError, match=r"models\[0\].recipe.models\[0\]: expected a pattern"):
        read_recipe({"models": [{"recipe": {"models": "no*", "method": "linear"}}], "method": "linear"}, root=root)
