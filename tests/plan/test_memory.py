"""The schedule fits its budget, and a refusal names a budget that works."""

from pathlib import Path
from typing import Any

import pytest
import torch

import eutectic
from eutectic.methods.matrices import svd_scratch
from eutectic.numerics.kernels import GRAIN
from eutectic.plan.memory import SLACK, SLICE, site_folds
from eutectic.stats.fold import Scope
from tests.plan.small import NORM, merged, plan, recipe, tensors

MIB = 1 << 20
METHODS: dict[str, Any] = {
    "linear": "linear",
    "ties": {"ties": {"density": 0.5}},
    "ties tensor": {"ties": {"density": 0.5, "scope": "tensor"}},
    "dare l1, ties": [{"dare": {"density": 0.5, "rescale": "l1"}}, {"ties": {"density": 0.5}}],
    "rows": {"model_stock": {"rows": True}},
    "ranks in rows": [{"della": {"density": 0.5, "rescale": "l1"}}, {"ties": {"density": 0.5, "scope": "tensor"}}],
    "two cuts": [{"breadcrumbs": {"density": 0.5, "scope": "tensor"}}, "task_arithmetic"],
    "emr": "emr",
    "tsv_c": "tsv_c",
    "nan": {"task_arithmetic": {"weight": "nan"}},
    "tsv": "tsv_m",
    "wudi": {"wudi": {"others": "mean"}},
    "doge": {"doge": {"weight": "nan"}},
}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two models whose largest tensor has two million elements."""
    root = tmp_path_factory.mktemp("large")
    big = tensors(**{"model.layers.0.mlp.up_proj.weight": torch.ones(2000, 1000).bfloat16()})
    recipe(root, big, big, big)
    return root


def asked(root: Path, method: Any) -> eutectic.Recipe:
    """Returns a recipe over the large models."""
    return recipe(root, *(str(root / name) for name in ("base", "m0", "m1")), method=method)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_least_that_works_works(method: Any, large: Path) -> None:
    """What a refusal names is enough, a MiB less is not, and the message says both numbers."""
    with pytest.raises(eutectic.OverBudget) as caught:
        plan(asked(large, method), memory=MIB)
    least = caught.value.needed
    found = plan(asked(large, method), memory=least, threads=4)
    assert found.peak <= least
    assert f"--memory {-(-least // MIB)}MiB" in str(caught.value)
    assert "the budget is 1.0 MiB" in str(caught.value)
    with pytest.raises(eutectic.OverBudget) as again:
        plan(asked(large, method), memory=least - 1)
    assert again.value.needed == least


@pytest.mark.parametrize("budget", [0, 1, -5])
def test_no_budget_at_all(budget: int, large: Path) -> None:
    """A budget of nothing is refused, not taken for none given."""
    with pytest.raises(eutectic.OverBudget):
        plan(asked(large, "linear"), memory=budget)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_every_budget_is_kept(threads: int, method: Any, large: Path) -> None:
    """Between the least and plenty, the projected peak is within the budget, and more never means fewer threads."""
    with pytest.raises(eutectic.OverBudget) as caught:
        plan(asked(large, method), memory=0)
    before = 0
    for budget in range(caught.value.needed, caught.value.needed + 1300 * MIB, 100 * MIB):
        found = plan(asked(large, method), memory=budget, threads=threads)
        assert found.peak <= budget
        assert found.schedule.slice_elements % GRAIN == 0
        assert before <= found.schedule.threads <= threads
        assert found.schedule.whole_threads >= 1
        before = found.schedule.threads
    assert (found.schedule.threads, found.schedule.slice_elements) == (threads, SLICE)


def test_what_is_counted(large: Path) -> None:
    """One thread's linear merge of two models holds two rows and one output of a slice."""
    found = plan(asked(large, "linear"), memory=1 << 34, threads=1)
    assert found.memory.buffers == pytest.approx(3 * 2 * SLICE, rel=1e-3)
    assert found.memory.folds == 0
    assert found.peak == found.memory.buffers + SLACK


def test_held_or_swept(large: Path) -> None:
    """A tensor with statistics of its own is held when the budget allows, and then read once."""
    method = METHODS["ties tensor"]
    roomy, tight = (plan(asked(large, method), memory=budget, threads=1) for budget in (1 << 34, 50 * MIB))
    assert roomy.schedule.resident_bytes >= 3 * 2 * 2_000_000
    assert tight.schedule.resident_bytes < 3 * 2 * 2_000_000
    assert roomy.sweeps == 1
    assert 2 < tight.sweeps <= 3


def test_sweeps(large: Path) -> None:
    """Statistics of the whole model cost sweeps before the map, and the plan's bytes say so."""
    linear, nan, ties = (plan(asked(large, METHODS[name])) for name in ("linear", "nan", "ties"))
    assert linear.sweeps == 1
    assert 2 < ties.sweeps <= 3
    assert ties.reads == pytest.approx(1.5 * linear.reads * ties.sweeps, rel=1e-6)
    assert nan.sweeps == 2


def test_site_folds(large: Path) -> None:
    """A chain's statistics are listed with those they come after."""
    site = merged(plan(asked(large, METHODS["dare l1, ties"])), NORM)
    assert {fold.scope for fold in site_folds(site)} == {Scope.TENSOR, Scope.MODEL}
    chain = [{"trim": {"density": 0.5, "rescale": "l1"}}, "task_arithmetic"]
    kinds = [type(fold).__name__ for fold in site_folds(merged(plan(asked(large, chain)), NORM))]
    assert sorted(kinds) == ["MagnitudeQuantile", "Mass", "Mass"]
    assert site_folds(merged(plan(asked(large, "linear")), NORM)) == []


def test_threads_of_sites_that_are_whole(large: Path) -> None:
    """More sites at once before more threads on each: three matrices on seven threads are three times two threads.

    A site that is alone has all of them; and where the budget holds but one site, so does that one.
    """
    found = plan(asked(large, "tsv_m"), memory=1 << 36, threads=7)
    assert (found.schedule.whole_threads, found.schedule.lanes, found.schedule.alone) == (3, 2, 7)
    with pytest.raises(eutectic.OverBudget) as caught:
        plan(asked(large, "tsv_m"), memory=0)
    tight = plan(asked(large, "tsv_m"), memory=caught.value.needed, threads=1)
    assert (tight.schedule.whole_threads, tight.schedule.lanes, tight.schedule.alone) == (1, 1, 1)


def test_what_a_decomposition_takes(large: Path) -> None:
    """A whole matrix of 2000 x 1000 is priced with its Gram matrices, vectors and workspace, twice over."""
    found = plan(asked(large, "tsv_m"), memory=1 << 36, threads=1)
    stored, work, scratch = 2 * 4 * 2_000_000, 4 * 7 * 2_000_000, 4 * svd_scratch(2, (2000, 1000))
    assert found.memory.buffers == pytest.approx(stored + 2 * (work + scratch), rel=0.01)
