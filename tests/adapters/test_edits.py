from typing import Any

import pytest

from eutectic.adapters.config import LoraConfig
from eutectic.adapters.edits import Edit, edits_against, edits_alone
from eutectic.adapters.names import read_names
from eutectic.checkpoint.spec import DTYPES, TensorSpec
from eutectic.errors import CheckpointError, MismatchError

Shapes = dict[str, tuple[int, ...]]


def lora(**changes: Any) -> LoraConfig:
    """Returns a configuration of rank 2 and scale 1."""
    fields: dict[str, Any] = {"where": "adapter_config.json", "base_name": None, "rank": 2, "alpha": 2.0, "raw": {}}
    fields |= {"rank_pattern": {}, "alpha_pattern": {}, "saved": ()}
    fields |= dict.fromkeys(("rslora", "transposed", "dora"), False)
    return LoraConfig(**(fields | changes))


def header(shapes: Shapes) -> dict[str, TensorSpec]:
    """Returns float32 specs."""
    return {name: TensorSpec(name, shape, DTYPES["F32"]) for name, shape in shapes.items()}


def module(name: str, out: int, inputs: int) -> Shapes:
    """Returns the shapes of a module's factors."""
    return {f"{name}.lora_A.weight": (2, inputs), f"{name}.lora_B.weight": (out, 2)}


def fit(adapter: Shapes, base: Shapes, **changes: Any) -> dict[str, Edit]:
    """Fits an adapter to a base, by shapes."""
    return edits_against(read_names(adapter, "file"), lora(**changes), header(adapter), header(base), "file", "base")


def turned(edits: dict[str, Edit]) -> dict[str, bool]:
    """Returns which edits are transposed."""
    return {name: edit.by_column for name, edit in edits.items()}


def test_orientation_by_shape() -> None:
    """A weight that is not square says itself how it is stored, whatever the configuration says."""
    base = {"a.weight": (3, 5), "b.weight": (5, 3)}
    adapter = module("a", 3, 5) | module("b", 3, 5)
    for transposed in (False, True):
        assert turned(fit(adapter, base, transposed=transposed)) == {"a.weight": False, "b.weight": True}


@pytest.mark.parametrize("transposed", [False, True])
def test_orientation_of_a_square_weight_by_its_block(transposed: bool) -> None:
    """In a square weight's block, biases as long as their weights' second axis tell Conv1D; else the configuration."""
    conv = {"h.0.attn.weight": (4, 12), "h.0.attn.bias": (12,), "h.0.proj.weight": (4, 4), "h.0.proj.bias": (4,)}
    linear = {"h.1.attn.weight": (12, 4), "h.1.attn.bias": (12,), "h.1.proj.weight": (4, 4)}
    silent = {"h.2.attn.weight": (12, 4), "h.2.proj.weight": (4, 4)}
    adapter = module("h.0.proj", 4, 4) | module("h.1.proj", 4, 4) | module("h.2.proj", 4, 4)
    found = turned(fit(adapter, conv | linear | silent, transposed=transposed))
    assert found == {"h.0.proj.weight": True, "h.1.proj.weight": False, "h.2.proj.weight": transposed}


def test_a_full_tensor_under_factors() -> None:
    """An embedding stored in full beside its factors is replaced first, then updated."""
    adapter = {"e.base_layer.weight": (7, 3), "e.lora_embedding_A": (2, 7), "e.lora_embedding_B": (3, 2)}
    edit = fit(adapter, {"e.weight": (7, 3)})["e.weight"]
    assert edit.full == "e.base_layer.weight"
    assert edit.pair is not None
    assert edit.pair.transposed
    assert edit.needs_base


def test_one_tensor_cannot_be_meant_twice() -> None:
    """Two names of the adapter that end in one tensor of the base are refused."""
    adapter = module("model.h.0.q", 3, 5) | module("bert.h.0.q", 3, 5)
    with pytest.raises(CheckpointError, match=r"both fit 'h\.0\.q\.weight'"):
        fit(adapter, {"h.0.q.weight": (3, 5)})


def test_another_bases_shapes() -> None:
    """A factor whose shape is not the base's names both shapes."""
    with pytest.raises(MismatchError, match=r"expected shape \(3, 6\) of 'q.weight' in the base base, found \(3, 5\)"):
        fit(module("q", 3, 5), {"q.weight": (3, 6)})


def test_a_stored_head_needs_to_be_announced() -> None:
    """A full tensor the base lacks is the adapter's own only if the configuration lists its module."""
    adapter = module("q", 3, 5) | {"classifier.weight": (2, 3)}
    assert fit(adapter, {"q.weight": (3, 5)}, saved=("classifier",))["classifier.weight"].full == "classifier.weight"
    with pytest.raises(MismatchError, match=r"'classifier\.weight'"):
        fit(adapter, {"q.weight": (3, 5)})


def test_alone() -> None:
    """Without a base, names and orientation are the adapter's own."""
    adapter = module("q", 3, 5) | {"q.lora_B.bias": (3,)}
    edits = edits_alone(read_names(adapter, "file"), lora(alpha=4.0), header(adapter), "file")
    assert {name: edit.shape for name, edit in edits.items()} == {"q.weight": (3, 5), "q.bias": (3,)}
    assert edits["q.bias"].shift == ("q.lora_B.bias", 2.0)
    assert not any(edit.needs_base for edit in edits.values())
