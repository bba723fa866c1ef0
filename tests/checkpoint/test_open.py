import json
from pathlib import Path

import numpy as np
import pytest

from eutectic.checkpoint.open import (
    Located,
    Reference,
    is_adapter,
    locate,
    open_checkpoint,
    open_located,
    open_source,
    parse_reference,
    read_config,
)
from eutectic.errors import CheckpointError, RecipeError
from tests.make.checkpoints import read, write_file, write_model


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models/code", Reference("models/code")),
        ("org/name@v1.0", Reference("org/name", "v1.0")),
        (" org/name@main+lora/maths ", Reference("org/name", "main", "lora/maths")),
        ("base+org/lora@3f2a", Reference("base", None, "org/lora@3f2a")),
        ("org/name@refs/pr/1", Reference("org/name", "refs/pr/1")),
    ],
)
def test_references(text: str, expected: Reference) -> None:
    """Path, revision and adapter, each where it belongs; printing gives back what was read."""
    assert parse_reference(text) == expected
    assert str(parse_reference(text)) == text.strip()


@pytest.mark.parametrize("text", ["", "a+b+c", "a@b@c", "@main", "org/name@", "+lora", "base+", "a@+b", "base+lora@"])
def test_references_outside_the_grammar(text: str) -> None:
    """More separators than the grammar has, or nothing beside one."""
    with pytest.raises(RecipeError, match="expected path, org/name@revision"):
        parse_reference(text)


def test_existing_paths_may_contain_separators(tmp_path: Path) -> None:
    """A folder that is there is taken by its name, whatever the name; two readings are refused."""
    folder = tmp_path / "a+b@c"
    folder.mkdir()
    assert parse_reference(str(folder)) == Reference(str(folder))
    assert parse_reference(f"{folder}+lora") == Reference(str(folder), None, "lora")
    assert parse_reference(f"base+{folder}") == Reference("base", None, str(folder))
    (tmp_path / "x+y").mkdir()
    (tmp_path / "z+x").mkdir()
    with pytest.raises(RecipeError, match="is not a model reference"):
        parse_reference(f"{tmp_path}/x+y+z+x")


def test_two_readings_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`a+b+c` where both `a+b` and `b+c` are folders says neither."""
    monkeypatch.chdir(tmp_path)
    for name in ("a+b", "b+c"):
        Path(name).mkdir()
    with pytest.raises(RecipeError, match="can be read in two ways"):
        parse_reference("a+b+c")


def test_opens_folders_with_their_config(tmp_path: Path) -> None:
    """A model folder has tensors, config and a place; a bare file has tensors alone."""
    folder = write_model(tmp_path / "m", {"w": np.ones(3)}, {"model_type": "llama"}, shards=1)
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.config == {"model_type": "llama"}
    assert (checkpoint.folder, checkpoint.revision, checkpoint.deltas) == (folder, None, False)
    assert read(checkpoint.source, "w").view("f8").tolist() == [1, 1, 1]
    bare = open_checkpoint(str(folder / "model.safetensors"))
    assert (bare.folder, bare.config) == (None, {})
    assert open_located("by another name", Located(folder, "abc")).revision == "abc"


def test_configs_as_transformers_writes_them(tmp_path: Path) -> None:
    """No config is an empty one; Infinity is taken; anything but an object is refused."""
    assert read_config(tmp_path) == {}
    (tmp_path / "config.json").write_text('{"time_step_limit": [0.0, Infinity]}')
    assert read_config(tmp_path)["time_step_limit"][1] == float("inf")
    for text in ("[]", "{", "null", '{"a": "\udcff"}'):
        (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(CheckpointError, match=r"config\.json: "):
            read_config(tmp_path)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    """Missing, empty and unknown places are named, with what was expected."""
    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    for place, message in [
        (tmp_path / "none", "no such file or folder"),
        (tmp_path, r"expected weights \(\*\.safetensors\), found none"),
        (tmp_path / "weights.gguf", r"ending in one of \.safetensors"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(str(place))
    with pytest.raises(CheckpointError, match="has no revision 'v1'"):
        locate(Reference(str(tmp_path), "v1"))


def test_adapters_are_for_the_layer_above(tmp_path: Path) -> None:
    """An adapter folder is recognised and not opened as a model."""
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4}))
    write_file(tmp_path / "adapter_model.safetensors", {"w": np.ones(1)})
    assert is_adapter(tmp_path)
    with pytest.raises(CheckpointError, match="expected a model, found only an adapter"):
        open_source(tmp_path)
    with pytest.raises(RecipeError, match="expected one model without an adapter"):
        open_checkpoint(f"{tmp_path}+lora")
