from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from eutectic.errors import RecipeError
from eutectic.recipe.document import compose
from eutectic.recipe.model import ModelEntry, Output, Recipe, Rule, Slice, SliceSource, Step
from eutectic.recipe.parse import read_recipe
from eutectic.recipe.values import NanWeights

#: The same recipe, short and by constructors.
SHORT: dict[str, Any] = {
    "base": "b",
    "models": [
        "code",
        {"model": "maths", "name": "m", "weight": [0, 1]},
        {"recipe": {"models": ["x"], "method": "linear"}},
    ],
    "method": [{"dare": {"density": 0.5}}, "ties"],
    "rules": [{"match": "*.q.*", "set": {"weight": "nan"}}, {"role": "norm", "blocks": 3, "method": "linear"}],
    "output": {"shard_size": "1 GB"},
}
LONG = Recipe(
    base="b",
    models=(
        ModelEntry(model="code"),
        ModelEntry(model="maths", name="m", parameters={"weight": (0, 1)}),
        ModelEntry(recipe=Recipe(models=(ModelEntry(model="x"),), method=(Step(method="linear"),))),
    ),
    method=(Step(method="dare", parameters={"density": 0.5}), Step(method="ties")),
    rules=(
        Rule(match=("*.q.*",), set={"weight": NanWeights()}),
        Rule(role=("norm",), blocks="3", method=(Step(method="linear"),)),
    ),
    output=Output(shard_size=10**9),
)


def test_short_forms_are_the_same_recipe() -> None:
    """Strings, mappings and constructors give equal objects with equal digests."""
    short = Recipe.model_validate(SHORT)
    assert short == LONG
    assert short.digest() == LONG.digest()
    assert LONG.names == ("code", "m", "recipe 3")


def test_only_what_differs_is_written() -> None:
    """The plain form holds no defaults and short forms where there are some."""
    assert Recipe.model_validate({"models": ["a"], "method": {"linear": None}, "seed": 0}).to_dict() == {
        "models": [{"model": "a"}],
        "method": "linear",
    }
    assert LONG.to_dict()["rules"] == [
        {"match": "*.q.*", "set": {"weight": "nan"}},
        {"role": "norm", "blocks": "3", "method": "linear"},
    ]
    assert LONG.to_dict()["output"] == {"shard_size": 10**9}


def test_digest_tells_recipes_apart_and_ignores_the_folder() -> None:
    """Every change of meaning changes the digest; where the file lay does not."""
    moved = LONG.model_copy(update={"root": Path("/somewhere")})
    others = [{**SHORT, "seed": 1}, {**SHORT, "models": SHORT["models"][:1]}, {**SHORT, "base": "c"}]
    digests = {Recipe.model_validate(other).digest() for other in others}
    assert moved.digest() == LONG.digest()
    assert len(digests | {LONG.digest()}) == 4


def test_models_are_found_by_name_then_reference() -> None:
    """A name wins; a reference serves when it is one model's only."""
    recipe = Recipe.model_validate(
        {"models": ["a", {"model": "b", "name": "c"}, {"model": "b", "name": "d"}], "method": "linear"}
    )
    assert [recipe.find(name) for name in ("a", "c", "d", "b", "e")] == [0, 1, 2, None, None]


def test_tasks() -> None:
    """A task of an output is called by both names, is part of the digest, and goes with a model; a base with a task."""
    entry = {"model": "out", "task": "code", "base": "b", "weight": 0.5}
    recipe = read_recipe({"models": [entry, {"model": "out", "task": "maths"}], "method": "linear"})
    assert recipe.names == ("out#code", "out#maths")
    assert recipe.to_dict()["models"][0] == entry
    plain = read_recipe({"models": ["out", {"model": "out", "task": "maths"}], "method": "linear"})
    assert plain.digest() != recipe.digest()
    stage = {"recipe": {"models": ["x"], "method": "linear"}, "task": "code"}
    for wrong in (stage, {"model": "out", "base": "b"}):
        with pytest.raises(RecipeError, match="task goes with a model that holds parts for several"):
            read_recipe({"models": [wrong], "method": "linear"})


def test_blocks_of_a_rule() -> None:
    """Ranges hold both ends; a tensor outside the blocks is in none."""
    rule = Rule(blocks="0-3, 7")
    assert [block for block in range(10) if rule.covers(block)] == [0, 1, 2, 3, 7]
    assert not rule.covers(None)
    assert Rule().covers(None)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"models": [], "method": "linear"},
        {"models": "abc", "method": []},
        {"models": [{"model": "a", "recipe": SHORT}], "method": "linear"},
        {"models": [{"model": "a", "weight": 1, "parameters": {"weight": 2}}], "method": "linear"},
        {"models": ["a"], "method": {"dare": {}, "ties": {}}},
        {"models": ["a"], "method": "linear", "seed": True},
        {"models": ["a"], "method": "linear", "pickles": 1},
        {"models": ["a"], "method": "linear", "rules": [{"blocks": "3-1"}]},
        {"models": ["a"], "method": "linear", "output": {"shard_size": True}},
        {"models": ["a"], "method": "linear", "output": {"shard_size": "9" * 60 + "TB"}},
        {"models": ["a"], "method": "linear", "slices": [{"sources": [{"model": "a", "blocks": [1]}]}]},
    ],
)
def test_refused_shapes(data: dict[str, Any]) -> None:
    """What has not the shape of a recipe is refused by the constructors already."""
    with pytest.raises(ValidationError):
        Recipe.model_validate(data)


numbers = st.integers(-9, 9) | st.floats(-1e9, 1e9)
texts = st.text(min_size=1, max_size=20).filter(lambda text: text.strip() and text.isprintable()) | st.sampled_from(
    [
        "null",
        "1e3",
        "0x1",
        "yes",
        "- a",
        "*",
        "&a",
        "a: b",
        "#",
        "~",
        "0o7",
        "'",
        '"',
        ".nan",
        ".inf",
        "007",
        "+.5",
        "5.",
    ]
)
values = st.one_of(
    numbers, st.booleans(), texts, st.lists(numbers, min_size=2, max_size=4), st.builds(NanWeights, scale=numbers)
)
parameters = st.dictionaries(
    texts.filter(lambda key: key not in {"model", "name", "recipe", "task", "base", "blocks"}), values, max_size=3
)
entries = st.builds(ModelEntry, model=texts, name=st.none() | texts, parameters=parameters)
steps = st.builds(Step, method=texts.filter(lambda name: name != "method"), parameters=parameters)
chains = st.lists(steps, min_size=1, max_size=3)
rules = st.builds(
    Rule,
    match=st.none() | st.lists(texts, min_size=1, max_size=3),
    models=st.none() | st.lists(texts, min_size=1, max_size=2),
    set=parameters,
    keep=st.none() | texts,
    method=st.none() | chains,
)
sources = st.builds(
    SliceSource, model=texts, blocks=st.tuples(st.integers(0, 9), st.integers(0, 9)), parameters=parameters
)
slices = st.builds(Slice, sources=st.lists(sources, min_size=1, max_size=2), parameters=parameters)
recipes = st.builds(
    Recipe,
    base=st.none() | texts,
    models=st.lists(entries, min_size=1, max_size=3),
    method=chains,
    rules=st.lists(rules, max_size=2),
    slices=st.lists(slices, max_size=2),
    seed=st.integers(0, 2**63 - 1),
    missing=st.sampled_from(["error", "base", "present"]),
    output=st.builds(Output, shard_size=st.integers(1, 2**62), tokenizer=st.none() | texts),
)


@given(recipes)
def test_round_trips(recipe: Recipe) -> None:
    """Written and read again, plain or as YAML, a recipe is equal, whatever its words look like."""
    assert Recipe.model_validate(recipe.to_dict()) == recipe
    (top,), errors = compose(recipe.to_yaml())
    assert errors == []
    again = Recipe.model_validate(top.plain())
    assert again == recipe
    assert again.digest() == recipe.digest()


def test_read_recipe_reads_what_is_written() -> None:
    """The YAML of a sound recipe passes the reader's checks."""
    sound = Recipe.model_validate({"base": "b", "models": ["x", "y"], "method": {"ties": {"density": 0.3}}})
    assert read_recipe(sound.to_yaml()) == sound
