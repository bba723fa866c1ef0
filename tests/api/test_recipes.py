from pathlib import Path

import pytest

import eutectic
from eutectic.api.recipes import METHODS, describe_method, explain_method
from eutectic.recipe.model import ModelEntry, Recipe, Rule, Step


def test_a_recipe_from_python_is_the_one_from_yaml(here: Path) -> None:
    """Keywords mean what keys mean."""
    made = eutectic.merge(
        ["code", {"model": "maths", "weight": 0.5}],
        base="base",
        method=[{"dare": {"density": 0.5}}, "ties"],
        rules=[eutectic.rule("*.self_attn.*", **{"ties.density": 0.8}), {"match": "lm_head.*", "keep": "base"}],
        seed=7,
        output={"dtype": "bfloat16"},
    )
    (here / "recipe.yaml").write_text(
        "base: base\n"
        "models: [code, {model: maths, weight: 0.5}]\n"
        "method: [{dare: {density: 0.5}}, ties]\n"
        "rules:\n"
        "  - {match: '*.self_attn.*', set: {ties.density: 0.8}}\n"
        "  - {match: 'lm_head.*', keep: base}\n"
        "seed: 7\n"
        "output: {dtype: bfloat16}\n"
    )
    assert made.digest() == eutectic.read("recipe.yaml").digest()


def test_models_in_every_form(here: Path) -> None:
    """A string, a path, an open checkpoint (also within a mapping), a recipe, an entry."""
    code = eutectic.open("code")
    inner = eutectic.merge(["code", "maths"], method="linear")
    entry = ModelEntry.model_validate({"model": "maths", "name": "again"})
    made = eutectic.merge(
        ["maths", Path("style-lora"), code, {"model": code, "name": "twice", "weight": 2}, inner, entry],
        base=eutectic.open("base"),
        method="task_arithmetic",
    )
    assert made.base == "base"
    assert made.names == ("maths", "style-lora", "code", "twice", "recipe 5", "again")
    assert made.models[4].recipe is not None
    assert made.models[4].recipe.digest() == inner.digest()


def test_rules_take_selectors_and_parameters() -> None:
    """What is no selector is a parameter; `set` may be given, and parameters beside it join it."""
    assert eutectic.rule("a.*", density=0.5) == {"match": "a.*", "set": {"density": 0.5}}
    assert eutectic.rule(role="norm", method="linear") == {"role": "norm", "method": "linear"}
    assert eutectic.rule(blocks="0-3", set={"weight": 1}, density=1) == {
        "blocks": "0-3",
        "set": {"weight": 1, "density": 1},
    }


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        (eutectic.rule(["a", 3]), r"rules\[0\]\.match"),  # type: ignore[list-item]
        (eutectic.rule("a", set=3), r"rules\[0\]\.set"),
        (eutectic.rule("a", densty=0.5), r"rules\[0\]\.set\.densty.*did you mean 'density'"),
        (eutectic.rule("a", keep="nobody"), r"rules\[0\]\.keep"),
        (eutectic.rule("a", density=object()), r"rules\[0\]\.set\.density"),
    ],
)
def test_wrong_rules_are_recipe_errors(wrong: dict[str, object], where: str) -> None:
    """Whatever a rule says, the error is ours, and names its key."""
    with pytest.raises(eutectic.RecipeError, match=where):
        eutectic.merge(["code", "maths"], base="base", method="ties", rules=[wrong])


def test_rules_may_be_objects() -> None:
    """A rule of the recipe's own kind serves too."""
    made = eutectic.merge(["a", "b"], base="c", method="ties", rules=[Rule(match=("x",), keep="base")])
    assert made.rules == (Rule(match=("x",), keep="base"),)


def test_every_mistake_at_once() -> None:
    """Options that do not exist, methods that do not exist: one error names both."""
    with pytest.raises(eutectic.RecipeError) as error:
        eutectic.merge(["a"], method="teis", sede=3)
    assert "did you mean 'ties'?" in str(error.value)
    assert "did you mean 'seed'?" in str(error.value)


def test_recipes_made_from_parts_are_checked() -> None:
    """A `Recipe` built by hand has not been read, so reading and planning check it."""
    made = Recipe(models=(ModelEntry(model="code"),), method=(Step(method="ties"),))
    with pytest.raises(eutectic.RecipeError, match="base"):
        eutectic.read(made)
    with pytest.raises(eutectic.RecipeError, match="base"):
        eutectic.plan(made)


def test_methods_as_data_and_as_text() -> None:
    """Each method describes and explains itself; an unknown one suggests the nearest."""
    for name in METHODS:
        assert describe_method(name)["name"] == name
        assert explain_method(name).startswith(f"{name}, a ")
    with pytest.raises(eutectic.RecipeError, match="did you mean 'linear'"):
        explain_method("lienar")


def test_a_recipe_object_may_hold_a_pattern(here: Path) -> None:
    """One made from parts is expanded when it is read; one that matches nothing is refused."""
    recipe = eutectic.Recipe.model_validate({"models": "[cm]?*s", "method": {"linear": {"weight": "wma"}}})
    assert eutectic.read(recipe).names == ("maths",)
    with pytest.raises(eutectic.RecipeError, match=r"models\[0\]: expected a pattern that matches models"):
        eutectic.read(eutectic.Recipe.model_validate({"models": "run/checkpoint-*", "method": "linear"}))
