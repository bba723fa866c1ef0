import json
from typing import Any

import pytest
from ruamel.yaml import YAML

from eutectic import read
from eutectic.methods import METHODS, get
from eutectic.methods.declare import Domain, Method
from eutectic.methods.page import declarations, describe, markdown, notes, page, summary, table

EACH = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def test_summary_is_the_first_sentence() -> None:
    """Without shapes and without a full stop."""
    assert summary(get("slerp")) == "Interpolates two points on their arc"


@EACH
def test_description_is_plain_data(method: Method[Any]) -> None:
    """It survives JSON, and names every parameter with its meaning."""
    data = describe(method)
    assert json.loads(json.dumps(data)) == data
    assert list(data["parameters"]) == [own.name for own in method.parameters]
    assert all(entry["meaning"] for entry in data["parameters"].values())
    assert data["name"] == method.name


def test_description_by_hand() -> None:
    """What a form needs to draw itself."""
    data = describe(get("dare"))
    assert (data["kind"], data["source"], data["year"]) == ("transform", "arXiv:2311.03099", 2024)
    assert data["needs"] == {
        "base": True,
        "models": "at least 1",
        "locality": "element",
        "domain": "tensors",
        "random": True,
        "fused": True,
    }
    density = data["parameters"]["density"]
    assert (density["required"], density["default"], density["per_model"]) == (True, None, True)
    assert (density["low"], density["high"]) == (0.0, 1.0)
    assert data["parameters"]["rescale"]["choices"] == ["inverse", "l1", "none"]


@EACH
def test_page_says_all(method: Method[Any]) -> None:
    """Name and kind, the paper and departures, what it needs, each parameter on a line of its own."""
    text = page(method)
    lines = text.splitlines()
    assert lines[0] == f"{method.name}, a {'combine' if method.combines else 'transform'}"
    assert notes(method) in text
    for own in method.parameters:
        assert sum(line.startswith(f"  {own.name}: ") and line.endswith(own.doc) for line in lines) == 1


def test_lines_by_hand() -> None:
    """Needs, bounds, one a model, defaults and words as a reader wants them."""
    assert "needs      a base, at least 1 model; sees elements at once" in page(get("trim"))
    assert "  density: float in [0, 1], one a model; required. share kept" in page(get("trim"))
    assert "  scope: model | tensor; default model." in page(get("trim"))
    assert "exactly 2 models (the base may be one)" in page(get("slerp"))
    assert "a seed" in page(get("dare"))
    assert "normalize: bool; default true." in page(get("linear"))


@EACH
def test_markdown_has_a_recipe_that_reads(method: Method[Any]) -> None:
    """The example names every parameter, and is a recipe."""
    text = markdown(method)
    assert text.startswith(f"# {method.name}\n")
    assert all(f"| `{own.name}` |" in text for own in method.parameters)
    example = text.split("```yaml\n")[1].split("```")[0]
    assert f"# {method.name}.yaml" in example
    step = read(_parsed(example)).method[0]
    assert step.method == method.name
    assert set(step.parameters) == {own.name for own in method.parameters}


def _parsed(text: str) -> dict[str, Any]:
    data: dict[str, Any] = YAML(typ="safe").load(text)
    return data


def test_table() -> None:
    """A row a method under one head, each linked to its page and its paper."""
    lines = table(list(METHODS.values()), "methods").splitlines()
    assert len(lines) == len(METHODS) + 2
    assert {line.count("|") for line in lines} == {7}
    ties = next(line for line in lines if "`ties`" in line)
    assert ties.startswith("| [`ties`](methods/ties.md) | combine |")
    assert "[TIES-Merging (2023)](https://arxiv.org/abs/2306.01708)" in ties
    assert "| exactly 1 model |" in next(line for line in lines if "`passthrough`" in line)
    assert "| a base, a seed |" in next(line for line in lines if "`dare`" in line)
    assert "| nothing |" in next(line for line in lines if "`linear`" in line)


def test_declarations() -> None:
    """Every law stands on one side or the other."""
    lines = declarations(list(METHODS.values())).splitlines()[2:]
    assert len(lines) == len(METHODS)
    for line, method in zip(lines, METHODS.values(), strict=True):
        name, sees, fused, kept, broken = (cell.strip() for cell in line.strip("|").split("|"))
        domain, locality = method.needs.domain, f"{method.needs.locality.name.lower()}s"
        assert (name, sees) == (f"`{method.name}`", locality if domain is Domain.ANY else domain.value)
        assert (fused == "yes") == (method.fused is not None)
        assert sorted(filter(None, f"{kept}, {broken}".replace(" ", "").split(","))) == sorted(
            ["symmetric", "fixedpoint", "identity", "shift", "scale", "gauge"], key=str
        )
        assert ("identity" in kept.split(", ")) == method.laws.identity
