"""A run as a whole: what it writes, checks, keeps and restores."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import eutectic
from eutectic.engine.run import check_buffers
from tests.engine.family import BUFFER, NORM, Stop, StopAfter, digests, recipes, run
from tests.engine.sites import normal, planned


def test_a_complete_folder(small: Path, tmp_path: Path) -> None:
    """Weights, index, config, recipe, receipt and card, and nothing else."""
    recipe = recipes(small, big=False)["to float16"]
    run(recipe, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    others = {
        "config.json",
        "README.md",
        "eutectic_receipt.json",
        "eutectic_recipe.yaml",
        "model.safetensors.index.json",
    }
    assert others < names
    assert all(name.startswith("model-") for name in names - others)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == names - others
    opened = eutectic.open(tmp_path / "out")
    assert {spec.dtype.name for spec in opened.source.header.values()} == {"F16", "I64"}


def test_the_recipe_in_the_output_makes_it_again(small: Path, tmp_path: Path) -> None:
    """The recipe that lies in an output gives the same weights."""
    expected = run(recipes(small, big=False)["rules"], tmp_path / "one")
    again = eutectic.read(tmp_path / "one" / "eutectic_recipe.yaml")
    assert run(eutectic.plan(again), tmp_path / "two") == expected


def test_buffers_that_differ(small: Path, tmp_path: Path) -> None:
    """Buffers that must be equal are compared before anything is written."""
    recipe = recipes(small, big=False)["buffers: base"] | {"buffers": "error"}
    with pytest.raises(eutectic.MismatchError, match=f"{BUFFER}.*buffers: base"):
        run(recipe, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    check_buffers(eutectic.plan(recipes(small, big=False)["rules"]))


def test_copies_are_exact(small: Path, tmp_path: Path) -> None:
    """What is copied are the bytes of its input."""
    run(recipes(small, big=False)["rules"], tmp_path / "out")
    here, there = load_file(tmp_path / "out" / "model.safetensors"), eutectic.open(small / "maths")
    own: dict[str, torch.Tensor] = {}
    for path in sorted((small / "maths").glob("*.safetensors")):
        own |= load_file(path)
    assert set(own) == set(there.source.header)
    assert torch.equal(here[NORM], own[NORM])
    assert torch.equal(here[BUFFER], own[BUFFER])


def test_large_copies(tmp_path: Path) -> None:
    """A copy larger than one piece, in another type, of an odd size, is whole."""
    big = normal(3, 1_000_001)
    tensors = {"a.weight": big, "b.weight": normal(3)}
    rules = [{"match": "a.*", "keep": "base"}]
    plan = planned(tmp_path, tensors, [tensors, tensors], "linear", rules=rules, output={"dtype": "bfloat16"})
    eutectic.run(plan, tmp_path / "out")
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["a.weight"], big.bfloat16())


def test_torch_threads_are_restored(small: Path, tmp_path: Path) -> None:
    """The caller's number of torch threads is as before, after success and after failure."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(recipes(small, big=False)["rows"], tmp_path / "out")
        assert torch.get_num_threads() == 2
        with pytest.raises(Stop):
            run(recipes(small, big=False)["rows"], tmp_path / "other", [StopAfter(0)])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_finished_work_is_kept_after_an_error(small: Path, tmp_path: Path) -> None:
    """What an observer's error interrupts is resumed, and a fresh start forgets it."""
    recipe = recipes(small, big=False)["rules"]
    expected = run(recipe, tmp_path / "whole")
    for resume in (True, False):
        out = tmp_path / f"out {resume}"
        with pytest.raises(Stop):
            run(recipe, out, [StopAfter(0.8)], threads=1)
        receipt = eutectic.run(eutectic.plan(recipe), out, resume=resume)
        assert receipt.resumed is resume
        assert digests(out) == expected


def test_nothing_to_merge(tmp_path: Path) -> None:
    """A recipe that keeps every tensor copies them."""
    tensors = {"a.weight": normal(5), "b.weight": normal(5)}
    rules = [{"match": "*", "keep": "base"}]
    plan = planned(tmp_path, tensors, [tensors, tensors], "linear", rules=rules)
    assert plan.merged == ()
    eutectic.run(plan, tmp_path / "out")
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["b.weight"], tensors["b.weight"])
