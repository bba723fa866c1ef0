"""Merged weights from coefficients and derivatives back, by hand and against autograd, kept or read again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import eutectic
from eutectic.engine.staged import Staged
from eutectic.engine.weighted import Weighted
from tests.make.checkpoints import write_model

NAMES = {"model.layers.0.mlp.up_proj.weight": (300, 500), "model.norm.weight": (500,)}


def models(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Writes a base and three models, larger than a grain, and returns their tensors."""
    found = []
    for seed, name in enumerate(("base", "a", "b", "c")):
        source = torch.Generator().manual_seed(seed)
        tensors = {key: torch.randn(shape, generator=source) for key, shape in NAMES.items()}
        write_model(folder / name, tensors)
        found.append(tensors)
    return found[0], found[1:]


def weighted(folder: Path, method: Any, keep: Any = (), scale: float = 1.0) -> Weighted:
    """Opens them under a chain."""
    recipe = eutectic.merge([folder / name for name in "abc"], base=folder / "base", method=method)
    staged = Staged(eutectic.plan(recipe, memory="100 MiB", threads=2), "merged")
    return Weighted(staged, dict.fromkeys(NAMES, scale), keep)


@pytest.mark.parametrize("keep", [(), tuple(NAMES), ("model.norm.weight",)], ids=["read again", "kept", "some"])
def test_merged_and_back(tmp_path: Path, keep: tuple[str, ...]) -> None:
    """Base + 0.5 (0.2 A - 0.3 B + C), and the derivatives of <G, merged>: 0.5 <G, A> and so on; twice the same."""
    base, each = models(tmp_path)
    ours = weighted(tmp_path, "task_arithmetic", keep, scale=0.5)
    numbers = dict.fromkeys(NAMES, (0.2, -0.3, 1.0))
    gradients = {name: torch.randn(shape) for name, shape in NAMES.items()}
    for _ in range(2):
        out = {name: torch.empty(shape) for name, shape in NAMES.items()}
        ours.merge(numbers, out)
        derivatives = ours.inner(gradients)
        for name, tensor in base.items():
            deltas = torch.stack([model[name] - tensor for model in each]).double()
            expected = tensor.double() + 0.5 * torch.tensordot(torch.tensor([0.2, -0.3, 1.0]).double(), deltas, 1)
            assert torch.allclose(out[name].double(), expected, atol=1e-5)
            back = [0.5 * float((gradients[name].double() * delta).sum()) for delta in deltas]
            assert derivatives[name] == pytest.approx(back, rel=1e-4, abs=1e-3)
    assert ours.inner({"model.norm.weight": gradients["model.norm.weight"]}).keys() == {"model.norm.weight"}


def test_kept_or_read_again_is_the_same(tmp_path: Path) -> None:
    """To the last bit, behind statistics of the whole model as well."""
    models(tmp_path)
    chain = [{"trim": {"density": 0.3}}, {"elect": {"tie": "majority"}}, "task_arithmetic"]
    gradients = {name: torch.randn(shape) for name, shape in NAMES.items()}
    found = []
    for keep in ((), NAMES):
        ours = weighted(tmp_path, chain, keep)
        out = {name: torch.empty(shape) for name, shape in NAMES.items()}
        for _ in range(2):
            ours.merge(dict.fromkeys(NAMES, (0.3, 0.3, 0.3)), out)
        found.append((out, ours.inner(gradients)))
    assert all(torch.equal(found[0][0][name], found[1][0][name]) for name in NAMES)
    assert found[0][1] == found[1][1]


def test_it_merges_what_a_run_merges(tmp_path: Path) -> None:
    """The chain's own output, but for the order of rounding."""
    models(tmp_path)
    chain = [{"trim": {"density": 0.3}}, {"tatr": {"ratio": 0.1}}, {"task_arithmetic": {"weight": 0.25}}]
    recipe = eutectic.merge([tmp_path / name for name in "abc"], base=tmp_path / "base", method=chain)
    eutectic.run(eutectic.plan(recipe, memory="100 MiB"), out=tmp_path / "out")
    out = {name: torch.empty(shape) for name, shape in NAMES.items()}
    weighted(tmp_path, chain).merge(dict.fromkeys(NAMES, (0.25,) * 3), out)
    run = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.allclose(out[name], run[name], atol=1e-6) for name in NAMES)
