import json
import re
from pathlib import Path
from typing import Any

import pytest

from eutectic.methods import METHODS
from eutectic.recipe.document import compose
from eutectic.recipe.model import ModelEntry, Output, Recipe, Rule, Slice, SliceSource
from eutectic.recipe.parse import read_recipe
from eutectic.recipe.schema import json_schema
from eutectic.recipe.values import SOURCES, LinesScale

SCHEMA = json_schema()
PAGE = Path(__file__).parent.parent.parent / "docs" / "recipes.md"
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
_TYPES: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def is_type(value: Any, name: str) -> bool:
    """Whether a value has a JSON type."""
    if name in {"number", "integer"}:
        return isinstance(value, int if name == "integer" else int | float) and not isinstance(value, bool)
    return isinstance(value, _TYPES[name])


def valid(value: Any, schema: dict[str, Any]) -> bool:
    """Validates the keywords that the schema uses; an unknown keyword is an error of this test."""
    for keyword, rule in schema.items():
        match keyword:
            case "$ref":
                passed = valid(value, SCHEMA["$defs"][rule.removeprefix("#/$defs/")])
            case "anyOf":
                passed = any(valid(value, option) for option in rule)
            case "oneOf":
                passed = sum(valid(value, option) for option in rule) == 1
            case "type":
                passed = any(is_type(value, name) for name in ([rule] if isinstance(rule, str) else rule))
            case "enum":
                passed = value in rule
            case "const":
                passed = value == rule
            case "minLength":
                passed = not isinstance(value, str) or len(value) >= rule
            case "minItems" | "maxItems":
                fits = isinstance(value, list) and (len(value) >= rule if keyword == "minItems" else len(value) <= rule)
                passed = not isinstance(value, list) or fits
            case "minProperties" | "maxProperties":
                passed = not isinstance(value, dict) or len(value) == rule
            case "minimum":
                passed = not is_type(value, "number") or value >= rule
            case "maximum":
                passed = not is_type(value, "number") or value <= rule
            case "items":
                passed = not isinstance(value, list) or all(valid(entry, rule) for entry in value)
            case "properties":
                passed = not isinstance(value, dict) or all(
                    valid(value[key], rule[key]) for key in rule if key in value
                )
            case "additionalProperties":
                extra = set(value) - set(schema.get("properties", {})) if isinstance(value, dict) else set()
                passed = not extra if rule is False else all(valid(value[key], rule) for key in extra)
            case "required":
                passed = not isinstance(value, dict) or set(rule) <= set(value)
            case "$schema" | "title" | "description" | "default" | "$defs":
                passed = True
            case _:
                pytest.fail(f"the schema uses {keyword}, which this test does not know")
        if not passed:
            return False
    return True


def test_the_schema_is_json() -> None:
    """Defaults and bounds are plain JSON, and every reference leads somewhere."""
    text = json.dumps(SCHEMA, allow_nan=False)
    assert set(re.findall(r'"#/\$defs/([^"]+)"', text)) <= set(SCHEMA["$defs"])


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_of_the_docs(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every recipe of the page is read, and so is what it is written as; the schema accepts both."""
    (tmp_path / "run" / "checkpoint-1").mkdir(parents=True)  # for the pattern among them
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe(text)
    assert valid(compose(text)[0][0].plain(), SCHEMA)
    assert valid(recipe.to_dict(), SCHEMA)
    assert read_recipe(recipe.to_dict()) == recipe


def test_the_page_has_examples() -> None:
    """The pattern above finds the page's recipes."""
    assert len(EXAMPLES) >= 8


@pytest.mark.parametrize(
    "data",
    [
        {"models": ["a"]},
        {"models": [], "method": "linear"},
        {"models": ["a"], "method": "tise"},
        {"models": ["a"], "method": {"ties": {"densty": 1}}},
        {"models": ["a"], "method": {"ties": {"density": 2}}},
        {"models": ["a"], "method": {"ties": {}, "dare": {}}},
        {"models": ["a"], "method": {"ties": {"scope": "modle"}}},
        {"models": [{"model": "a", "wieght": 1}], "method": "linear"},
        {"models": [{"name": "a"}], "method": "linear"},
        {"models": ["a"], "method": {"linear": {"weight": {"nan": {"of": "delt"}}}}},
        {"models": ["a"], "method": "linear", "seed": -1},
        {"models": ["a"], "method": "linear", "dtpye": "auto"},
        {"models": ["a"], "method": "linear", "output": {"dtype": "int8"}},
    ],
)
def test_the_schema_refuses(data: dict[str, Any]) -> None:
    """What an editor can see is wrong, the schema refuses."""
    assert not valid(data, SCHEMA)


def test_every_method_and_parameter_is_there() -> None:
    """The zoo is in the schema with kinds, bounds, defaults and meanings."""
    assert set(SCHEMA["$defs"]["step"]["properties"]) == set(METHODS)
    for method in METHODS.values():
        assert set(SCHEMA["$defs"]["step"]["properties"][method.name]["properties"]) == {
            p.name for p in method.parameters
        }
    density = SCHEMA["$defs"]["ties.density"]
    assert density["anyOf"][0] == {"type": "number", "minimum": 0.0, "maximum": 1.0}
    assert density["default"] == 0.2
    assert "share" in density["description"]
    assert SCHEMA["$defs"]["ties.scope"]["enum"] == ["model", "tensor"]


def test_keys_are_those_of_the_classes() -> None:
    """A field added to a class is added to the schema."""
    definitions = SCHEMA["$defs"]
    assert set(definitions["recipe"]["properties"]) == set(Recipe.model_fields) - {"root"}
    assert set(definitions["output"]["properties"]) == set(Output.model_fields)
    assert set(definitions["rule"]["properties"]) == set(Rule.model_fields)
    assert set(definitions["slice"]["properties"]) == set(Slice.model_fields)
    assert set(ModelEntry.model_fields) - {"parameters"} <= set(definitions["model"]["properties"])
    assert set(SliceSource.model_fields) - {"parameters"} <= set(definitions["source"]["properties"])
    words, *forms = definitions["weights"]["anyOf"]
    written = {name: set(options["properties"]) for form in forms for name, options in form["properties"].items()}
    assert written == {name: set(part.model_fields) for name, part in SOURCES.items()}
    assert set(words["enum"]) == set(SOURCES)
    assert set(definitions["lines"]["properties"]["lines"]["properties"]) == set(LinesScale.model_fields)
