"""A recipe as a source: what two merges one after the other give, without the file between them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import eutectic
from eutectic.engine.staged import Staged
from tests.engine.sites import normal
from tests.make.checkpoints import read, write_model

SHAPES = {"a.weight": (300, 400), "b.weight": (70,), "c.weight": ()}
INNER: dict[str, Any] = {
    "ties": {"ties": {"density": 0.4}},
    "ties tensor": {"ties": {"density": 0.4, "scope": "tensor"}},
    "rows": {"model_stock": {"rows": True}},
    "slerp": {"slerp": {"t": 0.3}},
    "nan": {"task_arithmetic": {"weight": "nan"}},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and three models in float32."""
    folder = tmp_path_factory.mktemp("staged")
    base = {name: normal(*shape) for name, shape in SHAPES.items()}
    for seed, name in enumerate(("base", "code", "maths", "chat")):
        own = {key: value + 0.1 * normal(*value.shape, seed=seed + 9) * (seed > 0) for key, value in base.items()}
        write_model(folder / name, own | {"ids": torch.arange(5)}, {})
    return folder


def inner_of(root: Path, name: str) -> dict[str, Any]:
    """Returns an inner recipe."""
    base = {} if name == "slerp" else {"base": str(root / "base")}
    return {**base, "models": [str(root / "code"), str(root / "maths")], "method": INNER[name]}


def outer_of(root: Path, first: Any) -> dict[str, Any]:
    """Returns a recipe over a stage or its output."""
    own = {"ties": {"density": 0.7, "scope": "tensor"}}
    return {"base": str(root / "base"), "models": [first, str(root / "chat")], "method": own}


@pytest.mark.parametrize("name", INNER)
def test_two_steps(name: str, root: Path, tmp_path: Path) -> None:
    """A stage and a file in its place give the same, to float32's rounding."""
    inner = inner_of(root, name)
    eutectic.run(eutectic.plan(inner), tmp_path / "inner")
    eutectic.run(eutectic.plan(outer_of(root, str(tmp_path / "inner"))), tmp_path / "two")
    eutectic.run(eutectic.plan(outer_of(root, {"recipe": inner})), tmp_path / "one")
    two, one = (load_file(tmp_path / each / "model.safetensors") for each in ("two", "one"))
    assert set(one) == set(two) == {*SHAPES, "ids"}
    for key, value in two.items():
        torch.testing.assert_close(one[key], value, rtol=1e-6, atol=1e-6)
    assert eutectic.verify(tmp_path / "one", sample=None).ok


@pytest.mark.parametrize("name", INNER)
def test_any_range(name: str, root: Path, tmp_path: Path) -> None:
    """Whatever is asked for, in whatever order, is a part of the whole."""
    inner = inner_of(root, name)
    eutectic.run(eutectic.plan(inner), tmp_path / "inner")
    whole = eutectic.open(tmp_path / "inner").source
    source = Staged(eutectic.plan(inner), "")
    assert {key: (spec.shape, spec.dtype) for key, spec in source.header.items()} == {
        key: (spec.shape, spec.dtype) for key, spec in whole.header.items()
    }
    for key, start, stop in (("a.weight", 70_000, 120_000), ("b.weight", 3, 9), ("a.weight", 1, 2), ("c.weight", 0, 1)):
        np.testing.assert_array_equal(read(source, key, start, stop), read(whole, key, start, stop))
    np.testing.assert_array_equal(read(source, "ids"), read(whole, "ids"))
    np.testing.assert_array_equal(read(source, "a.weight", 4, 4), np.empty(0, np.uint8))
    source.close()


def test_no_second_rounding(root: Path) -> None:
    """A stage's tensors are handed on in work precision, not in the type of its inputs."""
    half = {"base": str(root / "base"), "models": [str(root / "code"), str(root / "maths")], "method": "linear"}
    plan = eutectic.plan(outer_of(root, {"recipe": half}))
    stage = plan.inputs[1].source
    assert isinstance(stage, Staged)
    assert {spec.dtype.name for key, spec in stage.header.items() if key != "ids"} == {"F32"}


def test_changes_are_noticed(root: Path, tmp_path: Path) -> None:
    """The fingerprint covers recipe and inputs; an inner input that changes is an error of the outer run."""
    own = tmp_path / "own"
    write_model(own, load_file(root / "code" / "model.safetensors"), {})
    inner = {"models": [str(own), str(root / "maths")], "method": {"linear": {"weight": 1}}}
    prints = {
        Staged(eutectic.plan(each), "").fingerprint()
        for each in (inner, inner, {**inner, "method": {"slerp": {"t": 0.5}}})
    }
    assert len(prints) == 2

    def touch(event: object) -> None:
        path = own / "model.safetensors"
        path.write_bytes(path.read_bytes())

    with pytest.raises(eutectic.CheckpointError, match=str(own)):
        eutectic.run(eutectic.plan(outer_of(root, {"recipe": inner})), tmp_path / "out", watch=[touch])
    assert not (tmp_path / "out").exists()


def test_read_cost(root: Path) -> None:
    """Reading a stage's tensor costs its inputs' bytes."""
    source = Staged(eutectic.plan(inner_of(root, "ties")), "")
    assert source.read_cost("a.weight") == 3 * 4 * 300 * 400
    assert source.read_cost("ids") == 5 * 8
