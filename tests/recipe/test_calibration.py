import pytest

from eutectic.errors import RecipeError
from eutectic.recipe.calibration import for_model
from eutectic.recipe.model import Recipe
from eutectic.recipe.parse import read_recipe
from eutectic.recipe.schema import json_schema

TEXT = """
models: [{model: a, name: one}, {model: b, name: two}]
method: regmean
calibration:
  data: {one: a.jsonl, "*": rest.jsonl}
  samples: 8
  head: {weights: head.safetensors, scale: 20}
"""


def read(text: str) -> Recipe:
    """Reads YAML."""
    return read_recipe(text)


def test_one_for_all_or_by_model() -> None:
    """A model's own value wins over that for all; defaults are filled in."""
    said = read(TEXT).calibration
    assert said is not None
    assert [for_model(said.data, name) for name in ("one", "two")] == ["a.jsonl", "rest.jsonl"]
    assert for_model(said.samples, "one") == 8
    assert for_model({"one": 1}, "two") is None
    assert (said.batch, said.max_length, said.padding, said.seed) == (16, 512, "exclude", None)


def test_written_and_read_again() -> None:
    """Equal recipes, whichever way they were written."""
    recipe = read(TEXT)
    assert read_recipe(recipe.to_dict()) == recipe
    assert read_recipe(recipe.to_yaml()) == recipe
    assert "batch" not in recipe.to_yaml()


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ("data: {one: a}", "expected data for every model, found none for 'two'"),
        ("data: {three: a}", "expected one of the models"),
        ("samples: 4", "expected the key 'data', found none"),
        ("{data: a, samples: 0}", "expected a number from 1, found 0"),
        ("{data: a, padding: maybe}", "expected one of exclude, include"),
        ("{data: a, sample: 4}", "unknown key 'sample'; did you mean 'samples'"),
        ("{data: a, head: {weights: h, pol: mean}}", "unknown key 'pol'; did you mean 'pool'"),
        ("{data: a, head: {scale: 2}}", "expected weights or prompts, found neither"),
        ("{data: a, head: {weights: h, prompts: p}}", "expected weights or prompts, found both"),
        ("{data: a, head: {prompts: {three: p}}}", "expected one of the models"),
        ("{data: a, seed: -1}", "expected a number from 0, found -1"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(said: str, match: str) -> None:
    """By key and line."""
    text = f"models: [{{model: a, name: one}}, {{model: b, name: two}}]\nmethod: regmean\ncalibration:\n  {said}\n"
    with pytest.raises(RecipeError, match=match):
        read(text)


def test_heads_of_prompts() -> None:
    """By model or for all, written and read again."""
    prompts = "{prompts: {one: a.txt, two: b.txt}, pool: first}"
    recipe = read(TEXT.replace("{weights: head.safetensors, scale: 20}", prompts))
    assert recipe.calibration is not None
    assert recipe.calibration.head is not None
    assert recipe.calibration.head.files == {"one": "a.txt", "two": "b.txt"}
    assert read_recipe(recipe.to_dict()) == recipe


def test_stages_have_none() -> None:
    """A recipe within one cannot have data of its own."""
    inner = "{models: [a, b], method: linear, calibration: {data: x}}"
    with pytest.raises(RecipeError, match="outermost recipe alone"):
        read(f"models: [{{recipe: {inner}, name: s}}, {{model: c, name: c}}]\nmethod: linear\n")


def test_the_schema_has_it() -> None:
    """Editors know every key."""
    schema = json_schema()["$defs"]["calibration"]
    assert schema["required"] == ["data"]
    assert {"data", "samples", "batch", "padding", "head", "label", "runner"} <= set(schema["properties"])
