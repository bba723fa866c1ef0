"""Factorwise: chains on A and B apart, by hand on rank one and as recipes."""

from pathlib import Path

import torch
from safetensors.torch import load_file

import eutectic
from eutectic.adapters.factors import Factors
from eutectic.methods.site import Coordinates
from tests.make.adapters import factors, write_adapter
from tests.make.factors import made, merged, updates


def part(b: list[list[float]], a: list[list[float]], scale: float = 1.0) -> Factors:
    """Returns an update from nested lists."""
    return Factors(torch.tensor(b).double(), torch.tensor(a).double(), scale)


def test_a_sum_has_cross_terms() -> None:
    """B = (1,0) + (0,2) = (1,2), A = (3,0) + (0,1) = (3,1): (1,2)(3,1)^T; the updates would add up to diag(3, 2)."""
    parts = [part([[1], [0]], [[3, 0]]), part([[0], [2]], [[0, 1]])]
    assert merged(("factorwise", {}), parts).tolist() == [[3.0, 1.0], [6.0, 2.0]]


def test_factors_of_one_scale_are_merged_as_stored() -> None:
    """The scale 2 is on the product: the chain sees B = 1 and A = 3, not 2 and 3."""
    found = made(("factorwise", {}), [part([[1]], [[3]], 2.0), part([[5]], [[7]], 2.0)])
    assert isinstance(found, Coordinates)
    assert found.rights is not None
    assert (found.values.flatten().tolist(), found.rights.flatten().tolist(), found.scale) == ([1, 5], [3, 7], 2.0)
    assert merged(("factorwise", {}), [part([[1]], [[3]], 2.0)] * 2).item() == 2 * 2 * 2 * 3


def test_of_different_scales_the_largest_is_on_the_product() -> None:
    """Scales 4 and -1: B = 1 and -1/4 * 8 = -2, A = 1 and 3: -1 * 4, times 4."""
    parts = [part([[1]], [[1]], 4.0), part([[8]], [[3]], -1.0)]
    assert merged(("factorwise", {}), parts).item() == (1 - 2) * (1 + 3) * 4
    nothing = [part([[1]], [[1]], 0.0)] * 2
    assert merged(("factorwise", {}), nothing).item() == 0.0


def test_smaller_ranks_are_filled_with_zeros() -> None:
    """Directions of only one adapter are its own."""
    found = made(("factorwise", {}), updates(2, (4, 5), (2, 1)))
    assert found.values.shape == (2, 4, 2)
    assert found.values[1, :, 1].tolist() == [0.0] * 4
    assert found.rights[1, 1].tolist() == [0.0] * 5


def test_votes_are_on_each_factor() -> None:
    """TIES on B: 3 and -1 elect 3; on A: -2 and 5 elect 5. Their product is 15, where the updates are -6 and -5."""
    parts = [part([[3]], [[-2]]), part([[-1]], [[5]])]
    assert merged(("factorwise", {}), parts, ("ties", {"density": 1.0})).item() == 15.0


def test_as_a_recipe_of_adapters(tmp_path: Path) -> None:
    """Factors come out merged, scale on B; a module that only one adapter has is its own; rank and names stay."""
    tensors = factors("a.q_proj", 4, 6, seed=1), factors("a.q_proj", 4, 6, seed=2)
    alone = factors("a.k_proj", 3, 6, seed=3)
    write_adapter(tmp_path / "one", tensors[0] | alone)
    write_adapter(tmp_path / "two", tensors[1])
    recipe = eutectic.merge(
        [str(tmp_path / "one"), str(tmp_path / "two")],
        method=["factorwise", "task_arithmetic"],
        output={"form": "adapter"},
    )
    eutectic.run(eutectic.plan(recipe, memory="256MiB"), out=tmp_path / "out")
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    for module, given in (("a.q_proj", tensors), ("a.k_proj", (alone,))):
        stem = f"base_model.model.{module}.lora_"
        b, a = (sum(torch.from_numpy(each[f"{stem}{letter}.weight"]) for each in given) for letter in "BA")
        assert torch.allclose(found[f"{stem}B.weight"] @ found[f"{stem}A.weight"], 2.0 * b @ a, rtol=1e-5, atol=1e-6)  # type: ignore[operator]
        assert found[f"{stem}A.weight"].shape == (2, 6)
