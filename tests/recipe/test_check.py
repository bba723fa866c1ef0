from typing import Any

import pytest

from eutectic.errors import RecipeError
from eutectic.recipe.check import check, dotted, problems
from eutectic.recipe.model import Recipe

TWO: dict[str, Any] = {"base": "b", "models": ["x", "y"]}


def found(**data: Any) -> list[tuple[str, str]]:
    """Returns the problems of a recipe as (key, text)."""
    return [(dotted(key), text) for key, text in problems(Recipe.model_validate(data))]


@pytest.mark.parametrize(
    "data",
    [
        {"models": ["x"], "method": "linear"},
        {**TWO, "method": [{"trim": {"density": 0.5}}, {"dare": {"density": [0.1, 0.9]}}, "ties"]},
        {**TWO, "method": "ties", "rules": [{"role": "attention.*", "method": "linear", "set": {"normalize": False}}]},
        {**TWO, "method": {"ties": {"weight": {"nan": {"of": "delta"}}}}},
        {**TWO, "models": ["x"], "method": {"slerp": {"t": 0.5}}},
        {"models": ["x"], "method": "ties", "output": {"form": "adapter", "rank": 4, "error": 0.1, "rest": "drop"}},
        {"models": ["x"], "method": "task_arithmetic", "output": {"form": "delta"}},
        {
            **TWO,
            "method": "linear",
            "models": ["x", {"recipe": {"models": ["y"], "method": "peft", "output": {"form": "adapter", "rank": 2}}}],
        },
        {
            **TWO,
            "method": "passthrough",
            "slices": [
                {"sources": [{"model": "x", "blocks": [0, 2]}]},
                {"sources": [{"model": "base", "blocks": [0, 2]}]},
                {"sources": [{"model": "y", "blocks": [0, 1]}], "parameters": {"scale": 2}},
            ],
        },
    ],
)
def test_sound_recipes(data: dict[str, Any]) -> None:
    """Recipes that mean something have no problems."""
    check(Recipe.model_validate(data))


@pytest.mark.parametrize(
    ("data", "key", "says"),
    [
        ({"method": "dare"}, "method[0]", "keeps the models apart"),
        ({"method": ["ties", "linear"]}, "method[0]", "only the last of a chain may"),
        ({"method": [{"trim": {"density": 1}}, {"trim": {"density": 1}}, "ties"]}, "method[1]", "twice"),
        ({"method": "tise"}, "method[0].method", "did you mean 'ties'"),
        ({"method": {"ties": {"densty": 1}}}, "method[0].densty", "did you mean 'density'"),
        ({"method": {"ties": {"lambda": 1}}}, "method[0].lambda", "called scale"),
        ({"method": {"ties": {"density": 2}}}, "method[0].density", "lies in"),
        ({"method": "passthrough"}, "method[0]", "exactly 1 models, found 2"),
        ({"method": "ties", "base": None}, "method[0]", "needs a base"),
        ({"method": "linear", "models": ["x", "x"]}, "models[1]", "two models are called 'x'"),
        ({"method": "linear", "models": ["base"]}, "models[0]", "means the recipe's base"),
        ({"method": "linear", "models": ["x", {"model": "y", "wieght": 1}]}, "models[1].wieght", "'weight'"),
        ({"method": "linear", "models": ["x", {"model": "y", "nmae": 1}]}, "models[1].nmae", "'name'"),
        ({"method": "linear", "models": ["x", {"model": "y", "normalize": True}]}, "models[1].normalize", "all models"),
        ({"method": "linear", "models": ["x", {"model": "y", "weight": "nan"}]}, "models[1].weight", "at once"),
        (
            {"method": [{"dare": {}}, "ties"], "models": [{"model": "y", "density": 1}]},
            "models[0].density",
            "dare.density",
        ),
        (
            {"method": ["dare", "ties"], "models": ["x", {"model": "y", "dare.density": 1}]},
            "models[0]",
            "needs a density",
        ),
        ({"method": "slerp", "models": ["x"]}, "method", "needs a t"),
        ({"method": "linear", "rules": [{"role": "nrm", "keep": "x"}]}, "rules[0].role", "did you mean 'norm'"),
        (
            {"method": "linear", "rules": [{"match": "*", "keep": "z"}]},
            "rules[0].keep",
            "one of the models (x, y, base)",
        ),
        ({"method": "linear", "rules": [{"match": "*"}]}, "rules[0]", "changes nothing"),
        ({"method": "linear", "rules": [{"keep": "x"}]}, "rules[0]", "a selector"),
        (
            {"method": "linear", "rules": [{"match": "*", "keep": "x", "set": {"weight": 1}}]},
            "rules[0].keep",
            "not merged",
        ),
        ({"method": "linear", "rules": [{"models": "x", "method": "ties"}]}, "rules[0].models", "limits `set`"),
        (
            {"method": "linear", "rules": [{"models": "x", "set": {"normalize": True}}]},
            "rules[0].set.normalize",
            "all models",
        ),
        ({"method": "linear", "rules": [{"match": "*", "set": {"wight": 1}}]}, "rules[0].set.wight", "'weight'"),
        ({"method": "linear", "rules": [{"match": "*", "method": "tise"}]}, "rules[0].method[0].method", "'ties'"),
        ({"method": "linear", "output": {"tokenizer": "z"}}, "output.tokenizer", "one of the models"),
        ({"method": "linear", "base": None, "missing": "base"}, "missing", "needs a base"),
        ({"method": {"linear": {"weight": {"nan": {"of": "delta"}}}}, "base": None}, "method[0].weight", "need a base"),
        ({"method": "linear", "output": {"rank": 4}}, "output.rank", "form: adapter"),
        ({"method": "linear", "output": {"rest": "save"}}, "output.rest", "form: adapter"),
        ({"method": "linear", "output": {"form": "delta", "tokenizer": "x"}}, "output.tokenizer", "no tokenizer"),
        (
            {
                "method": "linear",
                "slices": [{"sources": [{"model": m, "blocks": [0, 1]} for m in ("x", "y")]}],
                "output": {"form": "adapter"},
            },
            "slices",
            "no adapter of the base",
        ),
        ({"method": [{"trim": {"density": 1}}, "peft"]}, "method[1]", "put it first"),
        ({"method": {"peft": {"weight": "nan"}}}, "method[0].weight", "cannot measure"),
        (
            {"method": "linear", "models": [{"recipe": {"models": ["x"], "method": "linear", "output": {"rank": 1}}}]},
            "models[0].recipe.output",
            "only the outermost",
        ),
    ],
)
def test_problems_name_key_and_reason(data: dict[str, Any], key: str, says: str) -> None:
    """Each problem is told with the key it is about and what would do."""
    told = dict(found(**{**TWO, **data}))
    assert says in told[key]


def slices(*sources: list[tuple[str, list[int]]]) -> list[dict[str, Any]]:
    """Returns slices of (model, blocks)."""
    return [{"sources": [{"model": model, "blocks": blocks} for model, blocks in piece]} for piece in sources]


def test_slices() -> None:
    """Sources are known, of one length, and every model is read somewhere."""
    told = dict(
        found(
            models=["x", "y", "w"],
            method="linear",
            slices=slices([("x", [0, 2]), ("y", [0, 3])], [("z", [3, 2])], [("base", [0, 1])]),
        )
    )
    assert told == {
        "slices[0].sources[1].blocks": "expected 2 blocks as in the slice's first source, found 3",
        "slices[1].sources[0].blocks": "expected a start that is not above the end, found [3, 2]",
        "slices[1].sources[0].model": "expected one of the models (x, y, w, base), found 'z'",
        "slices[2].sources[0].model": "expected a model, found 'base', and the recipe names no base; add `base:`",
        "models[2]": "no slice reads 'w'; add a source, or remove the model",
    }


def test_models_are_counted_slice_by_slice() -> None:
    """Passthrough takes one source a slice, however many models the recipe has."""
    assert found(models=["x", "y"], method="passthrough", slices=slices([("x", [0, 1])], [("y", [0, 1])])) == []
    assert found(models=["x", "y"], method="passthrough", slices=slices([("x", [0, 1]), ("y", [0, 1])])) == [
        ("slices[0].sources", "passthrough takes exactly 1 models, found 2")
    ]


def test_stages_are_checked_too() -> None:
    """A problem within a stage has its whole key; an output belongs to the outermost recipe."""
    inner = {"models": ["x"], "method": "ties", "output": {"dtype": "float16"}}
    told = dict(found(models=[{"recipe": inner}], method="linear"))
    assert set(told) == {"models[0].recipe.method[0]", "models[0].recipe.output"}


def test_stages_without_end_are_refused() -> None:
    """Recipes within recipes have a bound."""
    data: dict[str, Any] = {"models": ["x"], "method": "linear"}
    for _ in range(20):
        data = {"models": [{"recipe": data}], "method": "linear"}
    assert any("at most 16 recipes" in text for _, text in found(**data))


def test_everything_is_told_at_once() -> None:
    """`check` raises one error with a line for each problem."""
    recipe = Recipe.model_validate({"models": ["x", "x"], "method": {"ties": {"density": 3}}})
    with pytest.raises(RecipeError) as caught:
        check(recipe)
    assert len(str(caught.value).splitlines()) == 3
