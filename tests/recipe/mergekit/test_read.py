import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eutectic.errors import RecipeError
from eutectic.recipe.parse import convert_recipe, read_recipe

HERE = Path(__file__).parent
#: A folder of recipes in mergekit's dialect, which all must be read.
VARIABLE = "EUTECTIC_MERGEKIT_EXAMPLES"


@pytest.mark.parametrize("path", sorted((HERE / "examples").glob("*.yml")), ids=lambda path: path.stem)
def test_examples_are_read_and_written(path: Path) -> None:
    """An example becomes a recipe of ours that can be written and read again, with traps and without."""
    recipe = read_recipe(path)
    assert read_recipe(recipe.to_dict()) == read_recipe(recipe.to_yaml())
    assert read_recipe(recipe.to_dict()).digest() == recipe.digest()
    for keep in (True, False):
        written, _ = convert_recipe(path, keep_traps=keep)
        assert read_recipe(written.to_yaml()).to_dict() == written.to_dict()
        assert not keep or written.to_dict() == recipe.to_dict()


def test_recipes_of_a_folder_are_read() -> None:
    """Every recipe of the folder that the environment names."""
    if VARIABLE not in os.environ:
        pytest.skip(f"{VARIABLE} names no folder of mergekit recipes")
    paths = sorted(path for path in Path(os.environ[VARIABLE]).rglob("*") if path.suffix in {".yml", ".yaml"})
    assert paths
    for path in paths:
        assert read_recipe(path).models


def test_relative_paths_start_from_the_working_directory(tmp_path: Path) -> None:
    """As in mergekit, and unlike in our dialect."""
    (tmp_path / "c.yml").write_text("merge_method: karcher\nmodels: [{model: a}, {model: b}]\n")
    assert read_recipe(tmp_path / "c.yml").root is None
    assert read_recipe(tmp_path / "c.yml", root=tmp_path).root == tmp_path


def test_a_mapping_is_read_too() -> None:
    """Plain data is told apart by its merge_method."""
    data = {"merge_method": "linear", "models": [{"model": Path("a"), "parameters": {"weight": 1}}, {"model": "b"}],
            "parameters": {"weight": 2}}  # fmt: skip
    recipe = read_recipe(data)
    assert [entry.model for entry in recipe.models] == ["a", "b"]
    assert recipe.models[1].parameters == {"weight": 2}
    with pytest.raises(RecipeError, match="expected text, numbers"):
        read_recipe({"merge_method": "linear", "models": [{"model": object()}]})


def test_notes_say_where_and_what(tmp_path: Path) -> None:
    """Notes name file and line, stand on the recipe, and are no part of what it says."""
    (tmp_path / "c.yml").write_text(
        "merge_method: linear\nmodels:\n- model: a\n  parameters: {weight: [0, 1]}\n- model: b\nparamters: {x: 1}\n"
        "parameters: {weight: 0.5, densty: 1}\n"
    )
    recipe = read_recipe(tmp_path / "c.yml")
    where = tmp_path / "c.yml"
    assert recipe.notes == (
        f"{where}:4: lm_head and the final norm take the first value of the gradient of weight",
        f"{where}:6: the key 'paramters' has no effect; did you mean 'parameters'?",
        f"{where}:7: linear has no densty, so it has no effect",
    )
    assert "notes" not in recipe.to_dict()
    assert read_recipe(recipe.to_dict()).notes == ()
    mended, changes = convert_recipe(tmp_path / "c.yml")
    assert changes[0] == f"{where}:4: they take the last value of weight"
    assert mended.rules == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("merge_method: linear\nmodels: 3", "line 2: expected models as a list"),
        ("merge_method: liner\nmodels: [{model: a}]", "line 1: unknown method 'liner'; did you mean 'linear'?"),
        ("merge_method: linear\nmodels: [{model: a}]\nslices: []", "line 1: expected exactly one of models, slices"),
        ("merge_method: linear\nmodels: [{model: a}]", "line 2: a: linear needs weight, found none"),
        ("merge_method: linear\nmodels: [{model: a}]\nmodels: [{model: b}]", "line 3: the key 'models' is written"),
        ("merge_method: linear\n---\nmodels: []", "line 1: expected exactly one of models, slices and modules"),
        ("a: 1\n---\nmerge_method: karcher\nmodels: [{model: a}]", "line 1: expected the key merge_method in every"),
        ("merge_method: [x]\nmodels: [{model: a}]", "line 1: expected the name of a method"),
        ("base_model: a\nexperts: []\ngate_mode: hidden", "line 1: this is a recipe of mergekit-moe"),
        ("genome: {models: [a]}\ntasks: [x]", "line 1: this is a recipe of mergekit-evolve"),
    ],
)
def test_refusals(text: str, says: str) -> None:
    """What mergekit refuses is refused, with the line; and so are recipes of its other tools."""
    with pytest.raises(RecipeError) as caught:
        read_recipe(text + "\n")
    assert str(caught.value).startswith(says)


def test_only_mergekit_recipes_take_flags_and_are_converted() -> None:
    """A recipe of ours with flags, or to be converted, is a mistake."""
    ours = "models: [a, b]\nmethod: linear\n"
    with pytest.raises(RecipeError, match="--cuda: is a flag for recipes of mergekit's"):
        read_recipe(ours, flags=["--cuda"])
    with pytest.raises(RecipeError, match="expected a recipe of mergekit's"):
        convert_recipe(ours)


def test_flags_are_part_of_the_recipe() -> None:
    """Flags with a meaning set keys; the others are named in one note."""
    text = "merge_method: karcher\nmodels: [{model: a}, {model: b}]\n"
    flags = ["--random-seed", "7", "--out-shard-size=2M", "--unsafe-truncate-embeddings", "--lazy-unpickle", "-v"]
    recipe = read_recipe(text, flags=flags)
    assert (recipe.seed, recipe.output.shard_size, recipe.pickles) == (7, 2_000_000, True)
    assert recipe.to_dict()["vocabulary"] == "truncate"
    assert recipe.notes[-1] == "without effect here: -v"


_WORDS = st.sampled_from(
    ["merge_method", "models", "model", "slices", "sources", "layer_range", "parameters", "weight", "filter", "value",
     "base_model", "modules", "tokenizer", "tokens", "source", "dtype", "name", "linear", "ties", "slerp", "a",
     "passthrough", "b", "union", "float16", "chat_template", "t", "density", "<<", "kind", "zero", "lora", "path"]
)  # fmt: skip
_LEAVES = st.none() | st.booleans() | st.integers(-3, 40) | st.floats() | _WORDS | st.text(max_size=5)
_DATA = st.recursive(
    _LEAVES, lambda inside: st.lists(inside, max_size=4) | st.dictionaries(_WORDS, inside, max_size=5), max_leaves=30
)


@given(
    st.dictionaries(_WORDS, _DATA, max_size=6),
    st.sampled_from(["linear", "ties", "slerp", "passthrough", "model_stock", "dare_ties"]) | _DATA,
    st.lists(st.fixed_dictionaries({"model": st.sampled_from(["a", "b"]) | _DATA}, optional={"parameters": _DATA}))
    | _DATA,
)
def test_any_data_is_a_recipe_or_an_error(data: dict[str, object], method: object, models: object) -> None:
    """No document makes the reader fail in another way, whatever stands where."""
    for keep in (True, False):
        try:
            recipe, _ = convert_recipe({**data, "merge_method": method, "models": models}, keep_traps=keep)
        except RecipeError:
            continue
        assert read_recipe(recipe.to_dict()).to_dict() == recipe.to_dict()
