"""A site's chain: what it asks for, what its statistics see, and that both ways to run it agree."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import eutectic
from eutectic.engine.chain import Chain, Request
from eutectic.engine.execute import Executor
from eutectic.engine.reader import Worker
from eutectic.numerics.kernels import GRAIN
from eutectic.plan.steps import Plan
from eutectic.stats.conflict import conflict
from eutectic.stats.fold import Scope
from eutectic.stats.gradients import FisherDiagonal, GradientMagnitude
from eutectic.stats.quantiles import MagnitudeQuantile
from eutectic.stats.weights import Mass
from tests.engine.sites import Collected, as_float, chain, normal, planned
from tests.make.measured import magnitudes
from tests.make.sites import Job

NAME = "a.weight"
METHODS: dict[str, Any] = {
    "linear": {"linear": {"weight": 0.5}},
    "ties": {"ties": {"density": 0.3, "scope": "tensor"}},
    "dare l1, ties": [{"dare": {"density": 0.5, "rescale": "l1"}}, {"ties": {"density": 0.6, "scope": "tensor"}}],
    "trim l1": [{"trim": {"density": 0.5, "rescale": "l1", "scope": "tensor"}}, "task_arithmetic"],
    "model_stock": "model_stock",
    "nan": {"task_arithmetic": {"weight": {"nan": {"of": "delta", "per": "tensor"}}}},
}


def plan(root: Path, method: Any, *shape: int, dtype: torch.dtype = torch.float32, **more: Any) -> Plan:
    """Plans a merge of two fine-tunes of one tensor."""
    base = normal(*shape, dtype=dtype)
    models = [{NAME: base + 0.1 * normal(*shape, seed=seed).to(dtype)} for seed in (1, 2)]
    return planned(root, {NAME: base}, models, method, **more)


def merge(found: Plan, own: Chain) -> torch.Tensor:
    """Computes what a chain asks for, and merges the whole tensor at once."""
    Executor(found.inputs, found.schedule, Collected()).settle_own(own)
    out = np.empty(own.part.numel * 4, np.uint8)
    own.combine(Worker(found.inputs).load(own, 0, own.part.numel), out, "F32")
    return as_float(out)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("shape", [(1000, 70), (5,), ()], ids=str)
def test_kernels_and_torch_agree(method: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    """The fused kernels and the methods' own functions give the same numbers, to float32's rounding."""
    found = plan(tmp_path, method, *shape)
    fused = chain(found)
    reference = Chain(fused.site, 0, False)
    assert fused.fused
    reference.fused = False
    torch.testing.assert_close(merge(found, fused), merge(found, reference), rtol=1e-6, atol=1e-6)


def test_requests_come_level_by_level(tmp_path: Path) -> None:
    """What comes after another statistic is asked for once that one has its result; then nothing is asked for."""
    own = chain(plan(tmp_path, [{"trim": {"density": 0.5, "rescale": "l1"}}, "task_arithmetic"], 8))
    assert own.spans_model()
    cut = own.requests()
    assert [(each.position, type(each.statistic)) for each in cut] == [(0, MagnitudeQuantile)]
    assert cut[0].statistic.scope is Scope.MODEL
    own.accept(cut[0], (0.1, 0.1))
    masses = own.requests()
    assert {type(each.statistic) for each in masses} == {Mass}
    assert not own.spans_model()
    for each in masses:
        own.accept(each, np.array([2.0, 2.0]))
    assert own.requests() == ()


def test_a_second_steps_statistics_see_the_first_step(tmp_path: Path) -> None:
    """A cut after DARE is asked for at position 1, and is one of what DARE left."""
    found = plan(tmp_path, [{"dare": {"density": 0.5}}, {"ties": {"density": 0.9, "scope": "tensor"}}], 4000)
    own = chain(found)
    (request,) = own.requests()
    assert request.position == 1
    rows = Worker(found.inputs).load(own, 0, 4000)
    reference = Chain(own.site, 0, False)
    reference.fused = False
    dropped = (reference.seen(request, rows).deltas == 0).float().mean(1)
    assert all(abs(share - 0.5) < 0.05 for share in dropped.tolist())
    Executor(found.inputs, found.schedule, Collected()).settle_own(own)
    assert own.results[request] == (0.0, 0.0)  # half is zero, so a tenth is cut at zero


def test_coefficients_are_solved_first(tmp_path: Path) -> None:
    """A weight from a source is a number once its statistic is known."""
    own = chain(plan(tmp_path, METHODS["nan"], 8))
    (request,) = own.requests()
    own.accept(request, np.array([3.0, 1.0]))
    assert own.requests() == ()
    weights = own._values[0]["weight"]
    assert len(weights) == 2
    assert weights[0] != weights[1]


TATR = [("tatr", {"ratio": 0.3, "sensitivity": "gradients"}), ("task_arithmetic", {})]


@pytest.mark.parametrize("size", [GRAIN, 3 * GRAIN])
@pytest.mark.parametrize("threads", [1, 3])
def test_statistics_see_their_slice_of_what_calibration_found(size: int, threads: int) -> None:
    """A cut over two tensors is that of all their elements, each with its own gradients, whatever the slices."""
    shapes = {"a": (2 * GRAIN + 77,), "b": (5, 61)}
    models = [{name: normal(*shape, seed=seed) for name, shape in shapes.items()} for seed in (1, 2, 3)]
    base = {name: normal(*shape) for name, shape in shapes.items()}
    got = Job(TATR, models, base, slice_elements=size, threads=threads).run()
    moves = {name: torch.stack([model[name] - base[name] for model in models]) for name in shapes}
    found = {
        name: conflict(torch.stack([magnitudes(seed, shape) for seed in range(3)]), moves[name])
        for name, shape in shapes.items()
    }
    every = torch.cat([each.reshape(-1) for each in found.values()]).sort().values
    cut = every[int(len(every) * 0.7)]
    for name, each in found.items():
        kept = moves[name] * (each < cut)
        assert torch.equal(got.tensor(name), base[name] + (kept[0] + kept[1] + kept[2])), name


def test_statistics_read_what_their_method_declares() -> None:
    """Anything else that calibration found is refused, and so is reading where nothing was found."""
    job = Job(TATR, [normal(8, 3), normal(8, 3, seed=1)], normal(8, 3))
    (own,) = job.chains
    rows = Worker(job.inputs).load(own, 0, 24)
    (request,) = own.requests()
    assert own.seen(request, rows).measured(GradientMagnitude("base")).shape == (2, 24)
    with pytest.raises(eutectic.UndeclaredNeed, match=r"w: FisherDiagonal.* not declared in calibrated"):
        own.seen(request, rows).measured(FisherDiagonal("exact"))
    without = Chain(own.site, 0, False)
    with pytest.raises(eutectic.UndeclaredNeed, match="reads calibration's results, and there are none"):
        without.seen(request, rows).measured(GradientMagnitude("base"))


def test_statistics_behind_a_step_on_whole_tensors() -> None:
    """A cut over what CAT left of tensors that are several slices: the same as of tensors that are one."""
    shapes = {"a": (1100, 200), "b": (30, 8), "bias": (70_000,)}
    models = [{name: normal(*shape, seed=seed) for name, shape in shapes.items()} for seed in (1, 2)]
    base = {name: normal(*shape) for name, shape in shapes.items()}
    chain = [("cat", {}), ("ties", {"density": 0.3})]
    cut, whole = (
        Job(chain, models, base, slice_elements=size, threads=threads).run()
        for size, threads in ((GRAIN, 2), (8 * GRAIN, 1))
    )
    for name in shapes:
        assert torch.equal(cut.tensor(name), whole.tensor(name)), name
    each = [("linear", {"weight": share, "normalize": False}) for share in ((1.0, 0.0), (0.0, 1.0))]
    left = [Job([chain[0], one], models, base).run() for one in each]  # what CAT leaves of each, alone
    trimmed = [{name: one.tensor(name) for name in shapes} for one in left]
    apart = Job(chain[1:], trimmed, base).run()
    for name in shapes:
        assert torch.allclose(whole.tensor(name), apart.tensor(name), atol=1e-5), name


def test_counts_what_is_not_finite(tmp_path: Path) -> None:
    """Both ways count the merged values that are not finite in the output's type."""
    base = torch.zeros(10)
    odd = torch.tensor([1e6, float("nan"), float("inf"), *[1.0] * 7])
    found = planned(tmp_path, {NAME: base}, [{NAME: odd}, {NAME: odd}], "linear")
    for fused in (True, False):
        own = chain(found)
        own.fused = fused
        rows = Worker(found.inputs).load(own, 0, 10)
        assert own.combine(rows, np.empty(40, np.uint8), "F32") == 2
        assert own.combine(rows, np.empty(20, np.uint8), "F16") == 3


def test_wrong_shape_is_a_methods_bug(tmp_path: Path) -> None:
    """A method that returns another shape is named."""
    found = plan(tmp_path, "linear", 6, 2)
    own = chain(found)
    step = own.site.steps[0]
    broken = replace(step, method=replace(step.method, function=lambda site, **_: site.tensors[0][:1]))
    wrong = Chain(replace(own.site, steps=(broken,)), 0, False)
    wrong.fused = False
    with pytest.raises(eutectic.UndeclaredNeed, match=r"a.weight: linear returned \(1, 2\) for \(6, 2\)"):
        wrong.combine(Worker(found.inputs).load(wrong, 0, 12), np.empty(48, np.uint8), "F32")


def test_another_stage_draws_apart(tmp_path: Path) -> None:
    """The draws of an inner recipe are not those of the outer one, whatever the seed."""
    found = plan(tmp_path, [{"dare": {"density": 0.5}}, "task_arithmetic"], 1000)
    site = chain(found).site
    outer, inner, other = (merge(found, Chain(site, 0, False, "cpu", stage)) for stage in ("", "recipe 1", "recipe 2"))
    assert not torch.equal(outer, inner)
    assert not torch.equal(inner, other)


def test_requests_are_values() -> None:
    """Equal requests are computed once."""
    one, two = (Request(0, MagnitudeQuantile(Scope.MODEL, (0.5,), "official")) for _ in range(2))
    assert one == two
    assert len({one, two, replace(one, position=1)}) == 2
