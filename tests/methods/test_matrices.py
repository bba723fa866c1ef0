"""What methods on whole matrices share, and that all of them stand what deltas of real models can be."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import eutectic
from eutectic.methods import METHODS
from eutectic.methods.declare import Domain, Elsewhere, no_data
from eutectic.methods.matrices import domain, mean_elsewhere, share_of, svd_scratch
from tests.make.checkpoints import write_model
from tests.make.sites import Job, merge

NAMES = [
    name
    for name, method in METHODS.items()
    if method.needs.domain in {Domain.MATRIX, Domain.LINEAR} and method.calibrated is no_data
]
EACH = pytest.mark.parametrize("name", NAMES)
EXACT = pytest.mark.parametrize("exact", [False, True], ids=["shortcut", "exact"])
SHAPES = pytest.mark.parametrize("shape", [(12, 12), (20, 12), (12, 20)], ids=str)


def values(name: str, exact: bool) -> dict[str, Any]:
    """Returns a method's parameters: exact where it may be, and few steps."""
    method = METHODS[name]
    chosen: dict[str, Any] = {"exact": exact} if method.parameter("exact") else {}
    return chosen | ({"steps": 20} if method.parameter("steps") else {})


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Returns random numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def delta(name: str, deltas: list[torch.Tensor], exact: bool = False, **more: Any) -> torch.Tensor:
    """Returns the merged delta around a base of zeros."""
    return merge((name, values(name, exact) | more), deltas, torch.zeros_like(deltas[0]))


def test_all_five() -> None:
    """The methods of this family are the ones with a domain."""
    assert {"doge", "iso_c", "iso_cts", "tsv_m", "wudi"} <= set(NAMES)


def test_domain() -> None:
    """Two words, two domains."""
    assert domain("linear") is Domain.LINEAR
    assert domain("matrices") is Domain.MATRIX


def test_elsewhere() -> None:
    """A scale of 3 over 2 models is 3 times the mean of the deltas; weights go by their name."""
    assert mean_elsewhere(2, scale=3.0, exact=True) == Elsewhere("task_arithmetic", {"scale": 1.5})


def test_scratch_is_of_the_smaller_side() -> None:
    """Gram matrices are of the smaller side; a matrix and its transpose cost the same."""
    assert svd_scratch(8, (4096, 1024)) == svd_scratch(8, (1024, 4096))
    assert svd_scratch(8, (100_000, 64)) < 12 * 100_000 * 64


@pytest.mark.parametrize(("rank", "tasks", "kept"), [(768, 8, 96), (20, 3, 6), (4, 5, 0), (49, 49, 0), (5, 1, 5)])
def test_share(rank: int, tasks: int, kept: int) -> None:
    """int(r * (1 / T)): 49 * (1 / 49) is 0.9999999999999999 in floats, and cut off."""
    assert share_of(rank, tasks) == kept


@EACH
@EXACT
@SHAPES
def test_low_rank_deltas(name: str, exact: bool, shape: tuple[int, int]) -> None:
    """Deltas of rank 2, as an adapter's: finite, the same by both routes, and nothing outside what they span."""
    deltas = [normal(shape[0], 2, seed=at) @ normal(2, shape[1], seed=9 + at) / 8 for at in range(3)]
    found = delta(name, deltas, exact)
    assert found.isfinite().all()
    assert found.norm() > 0
    if name not in {"wudi", "doge"}:  # Adam's steps are element by element, and leave the span
        assert torch.allclose(found, delta(name, deltas, not exact), atol=1e-4)
        rows = torch.linalg.svd(torch.cat(deltas).double(), full_matrices=False)
        inside = rows.Vh[: int((1e-5 * rows.S[0] < rows.S).sum())]
        assert torch.allclose(found.double() @ inside.T @ inside, found.double(), atol=1e-4)


@EACH
@EXACT
def test_more_models_than_rank(name: str, exact: bool) -> None:
    """Seven models of matrices with three rows: defined and finite."""
    deltas = [normal(3, 8, seed=at) for at in range(7)]
    assert delta(name, deltas, exact).isfinite().all()
    turned = delta(name, [each.T.contiguous() for each in deltas], exact)
    assert turned.isfinite().all()


@EACH
@EXACT
def test_zero_deltas(name: str, exact: bool) -> None:
    """A model that changes nothing here brings no NaN; when none does, nor does the result."""
    deltas = [normal(6, 5, seed=1), torch.zeros(6, 5), normal(6, 5, seed=2)]
    assert delta(name, deltas, exact).isfinite().all()
    assert (delta(name, [torch.zeros(6, 5)] * 3, exact) == 0).all()


@EACH
@EXACT
@pytest.mark.parametrize("rank", [1, 12])
def test_identical_models(name: str, exact: bool, rank: int) -> None:
    """Three copies of one model, of full rank or not: finite, the same by both routes, and not far from it in size."""
    one = normal(12, rank) @ normal(rank, 14, seed=1) / 8
    found = delta(name, [one, one, one], exact)
    assert found.isfinite().all()
    if name != "doge":  # all shared directions are equally strong then: which of them count, rounding decides
        assert torch.allclose(found, delta(name, [one, one, one], not exact), atol=1e-4)
    assert 0 < found.norm() <= 3.01 * one.norm() + 1e-2


@EACH
@EXACT
def test_what_is_not_finite_is_seen(name: str, exact: bool) -> None:
    """A NaN in one delta is a NaN in the result, which the run refuses by its name; nothing raises."""
    deltas = [normal(6, 5, seed=at) for at in range(3)]
    deltas[1][2, 3] = float("nan")
    assert delta(name, deltas, exact).isnan().any()


@EACH
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (0, 4), (4, 0)], ids=str)
def test_thin_matrices(name: str, shape: tuple[int, int]) -> None:
    """One row, one column, or none."""
    found = delta(name, [normal(*shape, seed=at) for at in range(2)])
    assert found.shape == shape
    assert found.isfinite().all()


@EACH
def test_threads_change_nothing(name: str) -> None:
    """Several matrices on one worker or on three, each of which may use two threads more: the same bytes."""
    base, *models = ({f"w{at}": normal(24, 18 + at, seed=10 * seed + at) for at in range(5)} for seed in range(4))
    one, three = (
        Job([(name, values(name, False))], models, base, threads=threads, lanes=threads).run() for threads in (1, 3)
    )
    for tensor in base:
        assert torch.equal(one.tensor(tensor), three.tensor(tensor))


@EACH
def test_stored_in_bfloat16(name: str) -> None:
    """Work is done in float32 and rounded once: the result is that of the widened models."""
    base, *models = (normal(16, 12, seed=at).bfloat16() for at in range(3))
    wide = merge((name, values(name, False)), [model.float() for model in models], base.float())
    assert torch.equal(merge((name, values(name, False)), models, base), wide.bfloat16())


@EACH
def test_weights_from_norms(name: str, tmp_path: Path) -> None:
    """NAN's coefficients are the method's weights, of the matrices and of the tensors that are merged otherwise.

    Norms 1 : 2 of the deltas over all tensors (the second model is twice as far away everywhere) give 2/3 and 1/3.
    """
    names = {"model.layers.0.self_attn.q_proj.weight": (12, 10), "model.norm.weight": (12,)}
    base = {key: normal(*shape) for key, shape in names.items()}
    move = {key: normal(*shape, seed=1) for key, shape in names.items()}
    paths = [
        str(write_model(tmp_path / f"m{times}", {key: base[key] + times * move[key] for key in names}, {}))
        for times in (0, 1, 2)
    ]
    source = {"nan": {"of": "delta", "scale": 1}}
    others = {"others": "mean"} if METHODS[name].parameter("others") else {}
    found = {}
    for label, weight in (("source", source), ("numbers", None)):
        models = [
            {"model": path} | ({} if weight else {"weight": w})
            for path, w in zip(paths[1:], (2 / 3, 1 / 3), strict=True)
        ]
        step = {name: values(name, False) | others | ({"weight": weight} if weight else {})}
        recipe = {"base": paths[0], "models": models, "method": step}
        eutectic.run(eutectic.plan(recipe), out=tmp_path / label)
        found[label] = load_file(next((tmp_path / label).glob("*.safetensors")))
    for key in names:
        assert torch.allclose(found["source"][key], found["numbers"][key], atol=1e-4)
        assert not torch.allclose(found["source"][key], base[key], atol=1e-3)
    mean = base["model.norm.weight"] + (2 / 3 + 2 / 3) / 2 * move["model.norm.weight"]
    assert torch.allclose(found["source"]["model.norm.weight"], mean, atol=1e-4)
