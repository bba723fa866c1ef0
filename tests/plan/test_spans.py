"""Statistics of the whole model see the same models, in one precision, at every site."""

from pathlib import Path
from typing import Any

import pytest
import torch

import eutectic
from eutectic.engine.execute import Executor
from eutectic.engine.run import chains_of
from eutectic.engine.staged import _Nowhere
from eutectic.plan.spans import spanning, work_doubles
from tests.plan.small import NORM, Q, plan, recipe, tensors

TIES = {"ties": {"density": 0.5}}


def random(seed: int) -> dict[str, torch.Tensor]:
    """Returns a tiny model of random bfloat16 numbers."""
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=draw).bfloat16() for name, value in tensors().items()}


def cuts(root: Path, dtype: str, wide: dict[str, torch.Tensor]) -> set[Any]:
    """Returns the cuts of TIES over whole models."""
    found = eutectic.plan(recipe(root, random(0), wide, random(2), method=TIES, dtype=dtype))
    chains = chains_of(found)
    Executor(found.inputs, found.schedule, _Nowhere()).settle(chains)
    return {result for chain in chains for result in chain.results.values()}


def test_one_double_tensor(tmp_path: Path) -> None:
    """A single float64 tensor does not shift the cut of the others."""
    wide = random(1)
    wide[Q.format(0)] = wide[Q.format(0)].double()
    mixed, double = cuts(tmp_path, "auto", wide), cuts(tmp_path, "float64", wide)
    assert mixed == double
    assert len(mixed) == 1


def test_precision(tmp_path: Path) -> None:
    """Sites that share nothing keep their own precision."""
    wide = tensors(norm=torch.ones(4, dtype=torch.float64))
    given = (tensors(), wide, tensors())
    apart = plan(recipe(tmp_path, *given, method={"ties": {"density": 0.5, "scope": "tensor"}}))
    assert sum(work_doubles(apart.recipe, apart.merged)) == 1
    shared = plan(recipe(tmp_path, *given, method=TIES, rules=[{"match": Q.format(0), "method": "linear"}]))
    assert sum(work_doubles(shared.recipe, shared.merged)) == len(shared.merged) - 1
    assert len(spanning(shared.merged)) == len(shared.merged) - 1


@pytest.mark.parametrize("method", [TIES, {"task_arithmetic": {"weight": {"nan": {"of": "delta", "per": "model"}}}}])
def test_different_models(method: Any, tmp_path: Path) -> None:
    """A cut or norm per model over all tensors is refused where tensors have different models; per tensor not."""
    given = (tensors(), tensors(norm=None), tensors(q0=None), tensors())
    with pytest.raises(eutectic.MismatchError, match="scope: tensor"):
        plan(recipe(tmp_path, *given, method=method, missing="present"))
    plan(recipe(tmp_path, *given, method=method, missing="base"))
    plan(recipe(tmp_path, *given, method={"ties": {"density": 0.5, "scope": "tensor"}}, missing="present"))


def test_slices_of_different_models(tmp_path: Path) -> None:
    """Slices that merge different models cannot share one cut per model."""
    pairs = (("m0", "m1"), ("m1", "m2"))
    slices = [{"sources": [{"model": name, "blocks": [b, b + 1]} for name in pair]} for b, pair in enumerate(pairs)]
    given = (tensors(), tensors(), tensors(), tensors())
    with pytest.raises(eutectic.MismatchError, match=NORM.replace("norm", ".*")):
        plan(recipe(tmp_path, *given, method=TIES, slices=slices))
    assert plan(recipe(tmp_path, *given, method={"ties": {"density": 0.5, "scope": "tensor"}}, slices=slices)).merged
