"""The vocabulary policy as data."""

from typing import Any

import pytest

from eutectic.errors import RecipeError
from eutectic.recipe.model import Recipe
from eutectic.recipe.parse import read_recipe
from eutectic.recipe.vocabulary import Fill, TokenSource, Vocabulary


def policy(written: Any) -> Vocabulary:
    """Reads a recipe with this policy."""
    return read(written).vocabulary


def read(written: Any, **more: Any) -> Recipe:
    """Reads a recipe with this policy and other keys."""
    return read_recipe({"base": "b", "models": ["x", "y"], "method": "linear", "vocabulary": written, **more})


def test_words_stay_words() -> None:
    """`truncate` and `base` treat rows as numbered; the default is an error."""
    assert policy("truncate").rows == "truncate"
    assert not policy("base").by_token
    assert read("truncate").to_dict()["vocabulary"] == "truncate"
    assert "vocabulary" not in read("error").to_dict()


@pytest.mark.parametrize(
    "written",
    [
        {"tokenizer": "union"},
        {"tokenizer": "x", "pad_to_multiple_of": 64, "match": "normalised", "prefixes": True},
        {"donor": "other", "fill": {"omp": {"k": 4}}},
        {"tokenizer": "extended", "fill": {"interpolate": {"k": 3, "distance": "cosine"}}},
        {"tokenizer": "base", "fill": "nearest"},
        {
            "tokenizer": "union",
            "tokens": {
                "<a>": "zero",
                "<b>": "x",
                "\n": {"model": "y", "token": " "},
                "d": {"model": "base", "id": 3, "force": True},
                "e": {"zero": True, "force": True},
            },
        },
    ],
)
def test_round_trip(written: dict[str, Any]) -> None:
    """What is written is what is read, in the short forms."""
    recipe = read(written)
    assert recipe.to_dict()["vocabulary"] == written
    assert read_recipe(recipe.to_yaml()) == recipe
    assert read_recipe(recipe.to_yaml()).digest() == recipe.digest()


def test_short_forms() -> None:
    """A mapping without a tokenizer extends the base's; a fill and a source may be one word."""
    assert policy({"pad_to_multiple_of": 8}).tokenizer == "extended"
    found = policy({"tokenizer": "union", "fill": "omp", "tokens": {"<a>": "zero", "b": "x"}})
    assert found.fill == Fill(rule="omp")
    assert found.fill.predicts
    assert found.tokens == {"<a>": TokenSource(), "b": TokenSource(model="x")}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("trunc", "expected one of error, truncate, base; found 'trunc'; did you mean 'truncate'"),
        ({"tokenizer": "unoin"}, "did you mean 'union'"),
        ({"tokenizer": "union", "donor": "d"}, "tokenizer or donor, one of them, found both"),
        ({"tokeniser": "union"}, "unknown key 'tokeniser'; did you mean 'tokenizer'"),
        ({"fill": "nearst"}, "did you mean 'nearest'"),
        ({"fill": {"omp": {"n": 3}}}, "unknown option 'n' of the fill omp; it has k"),
        ({"fill": {"omp": {"k": 0}}}, "expected a number from 1"),
        ({"tokens": {"<a>": {"model": "z"}}}, "expected one of the models"),
        ({"tokens": {"<a>": {"token": "b"}}}, "expected the model whose token this is"),
        ({"tokens": {"<a>": {"model": "x", "token": "b", "id": 3}}}, "token or id, one of them"),
        ({"tokens": {"<a>": {"modle": "x"}}}, "did you mean 'model'"),
        ({"rows": "truncate", "tokenizer": "union"}, "not both"),
    ],
)
def test_mistakes(written: Any, said: str) -> None:
    """Each is reported with what was expected, and the nearest name."""
    with pytest.raises(RecipeError) as refused:
        read(written)
    assert said in str(refused.value)


def test_what_does_not_go_together() -> None:
    """A tokenizer has one owner, and only the outermost recipe writes one."""
    with pytest.raises(RecipeError, match="the vocabulary says whose tokenizer it is"):
        read({"tokenizer": "union"}, output={"tokenizer": "x"})
    inner = {"models": ["x", "y"], "method": "linear", "vocabulary": {"tokenizer": "union"}}
    with pytest.raises(RecipeError, match="only the outermost recipe writes a tokenizer"):
        read_recipe({"models": [{"recipe": inner}], "method": "linear"})
