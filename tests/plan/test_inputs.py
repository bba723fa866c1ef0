"""What a recipe names is opened: models, adapters as deltas, base+adapter as a model, recipes as stages."""

import os
from pathlib import Path

import pytest

import eutectic
from eutectic.plan.inputs import open_input, open_inputs
from tests.make.adapters import factors, write_adapter
from tests.plan.small import NORM, Q, recipe, tensors, write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A base, a model and an adapter."""
    for name in ("base", "model"):
        write(tmp_path, name, tensors())
    write_adapter(tmp_path / "lora", factors(Q.format(1).removesuffix(".weight"), 4, 4))
    return tmp_path


def descriptors() -> int:
    """Returns how many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


def test_model(root: Path) -> None:
    """A folder opens as a model under the name it was asked for, also from another root."""
    opened = open_input("base", root=root)
    assert not opened.deltas
    assert set(opened.source.header) == set(tensors())
    assert str(root / "base") in (opened.reference, opened.source.name) or opened.reference == "base"
    assert open_input(str(root / "base")).reference == str(root / "base")


def test_adapter(root: Path) -> None:
    """An adapter alone opens as deltas of the tensors it changes."""
    base = open_input("base", root=root)
    opened = open_input("lora", root=root, base=base)
    assert opened.deltas
    assert set(opened.source.header) == {Q.format(1)}
    assert opened.reference == "lora"


def test_base_plus_adapter(root: Path) -> None:
    """base+adapter opens as a model with all the base's tensors."""
    opened = open_input("base+lora", root=root)
    assert not opened.deltas
    assert set(opened.source.header) == set(tensors())
    assert opened.source.header[Q.format(1)].dtype.name == "F32"
    assert opened.source.header[NORM].dtype.name == "BF16"
    assert opened.reference == "base+lora"


def test_plus_in_a_path(root: Path) -> None:
    """A folder whose own name has a plus is itself."""
    write(root, "a+b", tensors())
    assert set(open_input("a+b", root=root).source.header) == set(tensors())


@pytest.mark.parametrize("reference", ["nowhere", "base+nowhere", "nowhere+lora"])
def test_absent(reference: str, root: Path) -> None:
    """What is not there is an error that names it."""
    with pytest.raises(eutectic.EutecticError, match="nowhere"):
        open_input(reference, root=root, offline=True)


def test_nothing_stays_open_after_a_failure(root: Path) -> None:
    """When one of several inputs cannot be opened, the others are closed again."""
    asked = eutectic.merge(["model", "base+lora", "absent"], base="base", method="linear").model_copy(
        update={"root": root}
    )

    def no_stage(inner: eutectic.Recipe) -> eutectic.Checkpoint:
        raise AssertionError

    before = descriptors()
    with pytest.raises(eutectic.EutecticError):
        open_inputs(asked, no_stage, offline=True)
    assert descriptors() == before


def test_nothing_stays_open_after_a_refused_plan(root: Path) -> None:
    """A plan that is refused closes its inputs."""
    write(root, "odd", tensors(norm=None))
    before = descriptors()
    with pytest.raises(eutectic.MismatchError):
        eutectic.plan(recipe(root, str(root / "base"), str(root / "odd"), str(root / "model")))
    with pytest.raises(eutectic.OverBudget):
        eutectic.plan(recipe(root, str(root / "base"), str(root / "model")), memory=1)
    assert descriptors() == before


def test_stages_inherit_the_root(root: Path) -> None:
    """Relative paths of an inner recipe start where the outer ones do."""
    inner = {"models": [{"model": "base", "name": "one"}, "model"], "method": "linear"}
    asked = eutectic.merge([{"recipe": inner}, "model"], method="linear").model_copy(update={"root": root})
    found = eutectic.plan(asked)
    assert set(found.inputs[0].source.header) == set(tensors())
