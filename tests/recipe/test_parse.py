import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eutectic.errors import RecipeError
from eutectic.recipe.model import Recipe
from eutectic.recipe.parse import read_recipe

GOOD = """\
base: b/
models:
  - model: code/
    weight: [0, 1]
    dare.density: 0.3
  - {model: maths/, name: maths}
  - recipe: {models: [x, y], method: linear}
method: [{dare: {density: 0.5}}, ties]
rules:
  - {match: "*.q_proj.*", set: {weight: 0.2}, models: [maths]}
  - {role: norm, blocks: "0-3", method: {linear: {normalize: false}}}
  - {match: "lm_head.*", keep: base}
slices:
  - sources:
      - {model: code/, blocks: [0, 8], weight: 0.5}
      - {model: maths, blocks: [0, 8]}
      - {model: recipe 3, blocks: [0, 8]}
    parameters: {scale: 0.4}
seed: 7
output: {dtype: float32, shard_size: 1GB, tokenizer: maths}
"""
PLAIN: dict[str, Any] = read_recipe(GOOD).to_dict()


def errors(text: str) -> list[str]:
    """Returns the errors of a text, one a line."""
    with pytest.raises(RecipeError) as caught:
        read_recipe(text)
    return str(caught.value).splitlines()


def test_yaml_json_mapping_and_file_are_one_recipe(tmp_path: Path) -> None:
    """The same recipe from text in both formats, from a mapping, and from a file that remembers its folder."""
    (tmp_path / "r.yaml").write_text("\ufeff" + GOOD, encoding="utf-8")
    recipe = read_recipe(GOOD)
    file = read_recipe(str(tmp_path / "r.yaml"))
    assert read_recipe(PLAIN) == read_recipe(json.dumps(PLAIN, indent="\t")) == recipe
    assert (file.root, file.models[2].recipe.root if file.models[2].recipe else None) == (tmp_path, tmp_path)
    assert file.models[0].model == "code/"
    moved = read_recipe(tmp_path / "r.yaml", root=Path("/else"))
    assert (moved.root, moved.models[2].recipe.root if moved.models[2].recipe else None) == (Path("/else"),) * 2
    assert file.digest() == recipe.digest()
    assert file.to_dict() == PLAIN


def test_every_error_at_once_with_its_line(tmp_path: Path) -> None:
    """Shape, names, values and keys written twice are told together, by line, each with what is near."""
    path = tmp_path / "bad.yaml"
    path.write_text(
        "base: b\n"
        "modles: 3\n"
        "models:\n"
        "  - model: code\n"
        "    wieght: 1\n"
        "  - maths\n"
        "method:\n"
        "  tise:\n"
        "    density: 1.5\n"
        "rules:\n"
        "  - match: '*'\n"
        "    keep: mats\n"
        "dtype: float23\n"
        "dtype: float32\n"
        "output:\n"
        "  dtpye: float16\n"
    )
    told = errors(str(path))
    assert [line.removeprefix(f"{path}:").split(":")[0] for line in told] == [
        str(n) for n in (2, 5, 7, 9, 12, 13, 14, 16)
    ]
    for text, hint in zip(
        told, ("models", "weight", "ties", "lies in", "maths", "float32", "twice", "dtype"), strict=True
    ):
        assert hint in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models: [a]\nmethod:\n  ties:\n    densty: 3\n", "line 4: method[0].densty: unknown parameter"),
        ("models: [a]\nmethod:\n- linear:\n    weight: x\n", "line 4: method[0].weight: linear: weight is a number"),
        ("models: [a]\nmethod: linear\nslices:\n- sources:\n  - model: b\n    blocks: [0, 2]\n", "line 5: slices[0]"),
        ("models:\n- recipe:\n    models: [a]\n    metod: linear\nmethod: linear\n", "line 4: models[0].recipe.metod"),
        ("models:\n- a\n- 3\nmethod: linear\n", "line 3: models[1]: expected a mapping, found 3"),
        ("method: linear\n", "line 1: models: expected the key 'models', found none"),
        ("models: [a]\nmethod: linear\nseed: -1\n", "line 3: seed: expected a number from 0, found -1"),
        ("models: [a]\nmethod: linear\npickles: 1\n", "line 3: pickles: expected true or false, found 1"),
        ("models:\nmethod: linear\n", "line 1: models: expected a list, found nothing"),
        ("models: [{modle: a}]\nmethod: linear\n", "did you mean 'model'?"),
        ("models: [a]\nmethod: linear\n1: 2\n", "line 3: expected a key that is text, found 1"),
    ],
)
def test_lines_of_errors(text: str, says: str) -> None:
    """The line is the innermost key's, in short forms too."""
    assert any(says in line for line in errors(text)), errors(text)


def test_mergekit_is_told_apart() -> None:
    """A recipe in mergekit's dialect is read as one, and its errors are those of its own grammar."""
    assert errors("models:\n  - model: a\nmerge_method: ties\nbase_model: b\n") == [
        "line 2: a: ties needs weight, found none"
    ]
    recipe = read_recipe(
        "models: [{model: a, parameters: {weight: 1}}, {model: b}]\nmerge_method: linear\nparameters: {weight: 2}"
    )
    assert [entry.parameters for entry in recipe.models] == [{"weight": 1}, {"weight": 2}]


def test_only_mergekits_files_have_several_documents() -> None:
    """Ours have one."""
    assert errors("models: [a, b]\nmethod: linear\n---\nmodels: [a]\n")[0].startswith("line 4: expected one document")


def test_mappings_have_keys_in_place_of_lines() -> None:
    """Without a text, an error names its key."""
    with pytest.raises(RecipeError, match=r"^models\[0\]\.wieght: unknown parameter 'wieght' of linear"):
        read_recipe({"models": [{"model": "a", "wieght": 1}], "method": "linear"})


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: \xe9\n", b"models: [a]\x00", b"", b"- 1", b"x" * (2**20 + 1)])
def test_files_that_are_no_recipe(tmp_path: Path, content: bytes) -> None:
    """Bytes that are no UTF-8, no mapping or far too many are refused with the file's name."""
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"r\.yaml"):
        read_recipe(path)


@pytest.mark.parametrize("name", ["none.yaml", ".", "a\x00b", "/dev/zero", ""])
def test_paths_that_are_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A missing file, a folder, a device and an impossible path are refused."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"expected a recipe|cannot be read"):
        read_recipe(name)


def test_a_great_many_errors_stay_readable() -> None:
    """A message ends after a hundred errors."""
    text = "models: [a]\nmethod: linear\n" + "".join(f"key{number}: 1\n" for number in range(300))
    told = errors(text)
    assert len(told) == 101
    assert told[-1] == "and 200 more"


def outcome(source: str | dict[str, Any]) -> Recipe | None:
    """Reads a recipe; None when it is refused."""
    try:
        return read_recipe(source)
    except RecipeError:
        return None


@given(st.integers(0, len(GOOD)), st.integers(0, 30), st.text(alphabet=st.characters(), max_size=8))
def test_broken_text_is_refused_or_read(start: int, length: int, inserted: str) -> None:
    """Text with a piece cut out and another put in ends in a recipe or in our error."""
    recipe = outcome(GOOD[:start] + inserted + GOOD[start + length :] + "\n")
    assert recipe is None or outcome(recipe.to_yaml()) == recipe


words = st.sampled_from(["base", "ties", "dare", "linear", "nan", "code/", "maths", "error", "density", "0-3", "*"])
leaves = st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=5) | st.binary(max_size=2)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=5), inner, max_size=3)
)


def mutate(data: Any, path: list[int], value: Any) -> Any:
    """Puts `value` somewhere into nested data; the path's numbers choose where."""
    data = copy.deepcopy(data)
    here = data
    for turn in path:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            break
        key = keys[turn % len(keys)]
        if turn == path[-1] or not isinstance(here[key], dict | list):
            here[key] = value
            break
        here = here[key]
    return data


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), trees)
def test_mutated_mappings_are_refused_or_read(path: list[int], value: Any) -> None:
    """Any value anywhere in a recipe ends in a recipe or in our error."""
    recipe = outcome(mutate(PLAIN, path, value))
    assert recipe is None or outcome(recipe.to_dict()) == recipe


@given(st.dictionaries(st.sampled_from(sorted(Recipe.model_fields)) | st.text(max_size=4), trees))
def test_any_mapping_is_refused_or_read(data: dict[str, Any]) -> None:
    """Mappings of the right keys and any values end in a recipe or in our error."""
    recipe = outcome(data)
    assert recipe is None or isinstance(recipe, Recipe)
