"""Every statistic of the weights: how it is shown the slices changes nothing, to the last bit."""

import copy
import functools
import itertools
import math
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from eutectic.engine.chain import Chain, Request
from eutectic.engine.execute import STRETCH
from eutectic.engine.reader import Worker
from eutectic.numerics.draw import Key
from eutectic.numerics.kernels import BLOCK, GRAIN
from eutectic.numerics.stages import Drop, RankedDrop
from eutectic.stats import quantiles, weights
from eutectic.stats.elected import Elected
from eutectic.stats.fold import Again, OfWeights, Part, Scope, Statistic
from eutectic.stats.quantiles import MagnitudeBand, MagnitudeQuantile, Quantiles, SpreadQuantile
from eutectic.stats.weights import Energy, Gram, Mass, Overlap, SignBalance
from tests.make.sites import Job

CUT = MagnitudeQuantile(Scope.MODEL, (0.3, 0.5, 1.0))
BAND = MagnitudeBand(Scope.MODEL, (0.5, 0.25, 1.0), (0.1, 0.0, 0.3))
SPREAD = SpreadQuantile(Scope.MODEL, 0.3)
STATISTICS: dict[str, Statistic] = {
    "gram of deltas": Gram(Scope.MODEL, "deltas"),
    "gram of weights": Gram(Scope.MODEL, "weights"),
    "energy of deltas": Energy(Scope.MODEL, "deltas"),
    "energy of weights": Energy(Scope.MODEL, "weights"),
    "mass": Mass(Scope.MODEL),
    "mass above a cut": Mass(Scope.MODEL, cut=CUT),
    "mass drawn": Mass(Scope.MODEL, kept=Drop((0.5, 0.25, 1.0), (1.0, 1.0, 1.0), 0)),
    "mass in a band": Mass(Scope.MODEL, band=BAND),
    "mass drawn by rank": Mass(Scope.MODEL, kept=RankedDrop((0.5, 0.25, 1.0), (0.25, 0.125, 0.0), True, 0)),
    "energy where models differ": Energy(Scope.MODEL, "deltas", SPREAD),
    "band": BAND,
    "band, kept first": MagnitudeBand(Scope.MODEL, (0.9, 0.5, 0.0), (0.2, 0.5, 0.25), "kept"),
    "spread": SPREAD,
    "no spread": SpreadQuantile(Scope.MODEL, 0.0),
    "overlap": Overlap(Scope.MODEL, 0.75),
    "cut": CUT,
    "cut exact": MagnitudeQuantile(Scope.MODEL, (0.1,), "exact"),
    "cut by mask rate": MagnitudeQuantile(Scope.MODEL, (0.0, 0.2, 0.9), "mask_rate"),
    "elected means": Elected(Scope.MODEL, "mean"),
    "elected sums": Elected(Scope.MODEL, "sum"),
    "balance": SignBalance(Scope.MODEL, (0.5, -1.0, 2.0)),
    "balance above a cut": SignBalance(Scope.MODEL, (1.0,), CUT),
}
EACH = pytest.mark.parametrize("name", STATISTICS)
SHAPES = {"long": (2 * GRAIN + 77,), "wide": (5, 61), "scalar": (), "empty": (0, 4)}
Slice = tuple[Chain, int, int]


def tensors(seed: int, special: bool) -> dict[str, torch.Tensor]:
    """Returns one model: several tensors, some of them tiny or empty."""
    source = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(shape, generator=source) for name, shape in SHAPES.items()}
    if special:
        made["wide"][1, 3:6] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    return made


@functools.cache
def party(special: bool = False) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Returns three models and their base."""
    base, *models = (tensors(seed, special and seed == 2) for seed in range(4))
    return models, base


def job(special: bool, fused: bool) -> Job:
    """Returns a merge of the party; only its chains and readers are used here, which load whole rows for the first."""
    models, base = party(special)
    return Job([("breadcrumbs", {"density": 0.5}), ("task_arithmetic", {})], models, base, fused=fused)


class Sweep:
    """A statistic shown to all slices of a job, in the way it is told to.

    Args:
        arrange: puts the slices in another order.
        grid: elements of a slice.
        join: folds the states of the shares into one; as many shares as `shares`.
        pause: the state is stored and read back after every slice.
    """

    def __init__(
        self,
        *,
        arrange: Callable[[list[Slice]], list[Slice]] = list,
        grid: int = GRAIN,
        shares: int = 1,
        join: Callable[[Statistic, list[Any]], Any] = lambda statistic, states: functools.reduce(
            statistic.combine, states
        ),
        pause: bool = False,
    ) -> None:
        self._arrange, self._grid, self._shares, self._join, self._pause = arrange, grid, shares, join, pause

    def __call__(self, statistic: Statistic, job: Job) -> Any:
        """Returns the statistic's result, and those it comes after first."""
        for before in statistic.after:
            result = Sweep()(before, job)
            for chain in job.chains:
                chain.accept(Request(0, before), result)
        worker, request = Worker(job.inputs), Request(0, statistic)
        state = statistic.init([chain.part for chain in job.chains], 3, False)
        while True:
            states = [state, *(copy.deepcopy(state) for _ in range(self._shares - 1))]
            for at, (chain, start, stop) in enumerate(self._slices(job, statistic.sample(state))):
                rows = worker.load(chain, start, stop)
                statistic.update(states[at % self._shares], chain.seen(request, rows))
                if self._pause:
                    states = pickle.loads(pickle.dumps(states))
            result = statistic.finish(self._join(statistic, states))
            if not isinstance(result, Again):
                return result
            state = result.state

    def _slices(self, job: Job, every: int) -> list[Slice]:
        """Cuts every tensor; a sample is one stretch in `every`."""
        grid, step = (STRETCH, STRETCH * every) if every > 1 else (self._grid, self._grid)
        cut = [
            (chain, start, min(chain.part.numel, start + grid))
            for chain in job.chains
            for start in range(0, max(1, chain.part.numel), step)
        ]
        return self._arrange(cut)


def shuffled(slices: list[Slice]) -> list[Slice]:
    """Returns the slices in another order, the same on every run."""
    return [slices[at] for at in np.random.default_rng(0).permutation(len(slices))]


def from_the_right(statistic: Statistic, states: list[Any]) -> Any:
    """Joins (a, (b, (c, d))) where the usual way is (((a, b), c), d)."""
    joined = states[-1]
    for state in reversed(states[:-1]):
        joined = statistic.combine(state, joined)
    return joined


WAYS: dict[str, Sweep] = {
    "reversed": Sweep(arrange=lambda slices: slices[::-1]),
    "shuffled": Sweep(arrange=shuffled),
    "two grains a slice": Sweep(grid=2 * GRAIN),
    "whole tensors": Sweep(grid=4 * GRAIN),
    "two shares": Sweep(shares=2, arrange=shuffled),
    "more shares than slices": Sweep(shares=9),
    "joined from the right": Sweep(shares=4, join=from_the_right),
    "joined backwards": Sweep(shares=4, join=lambda s, states: functools.reduce(s.combine, states[::-1])),
    "stored and read back": Sweep(pause=True),
}


def same(left: Any, right: Any) -> bool:
    """Whether two results hold the same bits; NaN equals NaN."""
    first, second = np.asarray(left, np.float64), np.asarray(right, np.float64)
    return first.shape == second.shape and np.array_equal(first, second, equal_nan=True)


def test_every_statistic_is_tested() -> None:
    """A statistic of weights that is added is added here."""
    names = {**vars(weights), **vars(quantiles)}.values()
    own = {each for each in names if isinstance(each, type) and issubclass(each, OfWeights)}
    assert own - {OfWeights, Quantiles} | {Elected} == {type(statistic) for statistic in STATISTICS.values()}


@EACH
@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
@pytest.mark.parametrize("special", [False, True], ids=["finite", "not finite"])
def test_showing_changes_nothing(name: str, fused: bool, special: bool) -> None:
    """The order of slices, how tensors are cut, who sees what, how states are joined, and stopping in between."""
    statistic = STATISTICS[name]
    plain = Sweep()(statistic, job(special, fused))
    differing = [way for way, sweep in WAYS.items() if not same(sweep(statistic, job(special, fused)), plain)]
    assert differing == []


@pytest.mark.parametrize("sensitivity", ["deltas", "gradients", "ntk"])
@pytest.mark.parametrize("special", [False, True], ids=["finite", "not finite"])
def test_showing_what_calibration_found_changes_nothing(sensitivity: str, special: bool) -> None:
    """The same of conflicts, which are of deltas and of calibration's results: every slice sees its own."""
    step = ("tatr", {"ratio": 0.3, "sensitivity": sensitivity})

    def made() -> Job:
        models, base = party(special)
        return Job([step, ("task_arithmetic", {})], models, base, fused=False)

    (request,) = made().chains[0].requests()
    plain = Sweep()(request.statistic, made())
    differing = [way for way, sweep in WAYS.items() if not same(sweep(request.statistic, made()), plain)]
    assert differing == []


@EACH
@pytest.mark.parametrize("special", [False, True], ids=["finite", "not finite"])
def test_kernels_agree_with_torch(name: str, special: bool) -> None:
    """Counts are equal; sums are to within a few roundings of float64, for they add in another order."""
    fused, plain = (Sweep()(STATISTICS[name], job(special, way)) for way in (True, False))
    if isinstance(STATISTICS[name], Quantiles | SignBalance | Overlap):
        assert same(fused, plain)
    else:
        np.testing.assert_allclose(fused, plain, rtol=1e-11, equal_nan=True)


@EACH
def test_state_is_as_large_as_it_says(name: str) -> None:
    """The plan pays for states by `nbytes`: a state that is full is no larger."""
    statistic, merge = STATISTICS[name], job(False, True)
    for before in statistic.after:
        for chain in merge.chains:
            chain.accept(Request(0, before), Sweep()(before, merge))
    parts = [chain.part for chain in merge.chains]
    state = statistic.init(parts, 3, False)
    for chain in merge.chains:
        statistic.update(
            state, chain.seen(Request(0, statistic), Worker(merge.inputs).load(chain, 0, chain.part.numel))
        )
    fields = (
        [state]
        if isinstance(state, list | np.ndarray)
        else [*(state if isinstance(state, dict) else vars(state)).values()]
    )
    held = [each for each in fields if isinstance(each, np.ndarray)]
    assert sum(each.nbytes for each in held) <= statistic.nbytes(parts, 3) + 1024


def test_equal_statistics_are_one() -> None:
    """Equal declarations are equal values, so that the engine computes them once."""
    assert len({Gram(Scope.TENSOR, "deltas"), Gram(Scope.TENSOR, "deltas"), Gram(Scope.MODEL, "deltas")}) == 2
    assert (
        len({Mass(Scope.TENSOR, cut=CUT), Mass(Scope.TENSOR, cut=MagnitudeQuantile(Scope.MODEL, (0.3, 0.5, 1.0)))}) == 1
    )


# ---- against numpy --------------------------------------------------------------------------------------------------


def wide(special: bool = False) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Returns base and models flattened over all tensors, and the float32 deltas, both as float64."""
    models, base = party(special)
    rows = [torch.cat([each[name].reshape(-1) for name in SHAPES]) for each in (base, *models)]
    return torch.stack(rows).double().numpy(), torch.stack([row - rows[0] for row in rows[1:]]).double().numpy()


@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
def test_sums_against_numpy(fused: bool) -> None:
    """Inner products, energies and masses are those of float64, of float32 differences."""
    rows, deltas = wide()
    expected: dict[str, Any] = {
        "gram of deltas": deltas @ deltas.T,
        "gram of weights": rows @ rows.T,
        "energy of deltas": (deltas**2).sum(1),
        "energy of weights": (rows[1:] ** 2).sum(1),  # of the models; the base is none
        "mass": np.abs(deltas).sum(1),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(Sweep()(STATISTICS[name], job(False, fused)), value, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
def test_partial_masses_against_numpy(fused: bool) -> None:
    """A mass above a cut is that of the magnitudes at or above it; a drawn one that of the elements drawn."""
    models, base = party()
    deltas = {name: torch.stack([model[name] - base[name] for model in models]).reshape(3, -1) for name in SHAPES}
    cut = torch.tensor(Sweep()(CUT, job(False, fused)))[:, None]
    above = [each.abs().where(each.abs() >= cut, 0.0).double().sum(1).numpy() for each in deltas.values()]
    np.testing.assert_allclose(Sweep()(STATISTICS["mass above a cut"], job(False, fused)), sum(above), rtol=1e-11)
    drawn = [
        each.abs().where(Key(0, name).keep((0.5, 0.25, 1.0), each), 0.0).double().sum(1).numpy()
        for name, each in deltas.items()
    ]
    np.testing.assert_allclose(Sweep()(STATISTICS["mass drawn"], job(False, fused)), sum(drawn), rtol=1e-11)


@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_balance_against_numpy(fused: bool, sign: float) -> None:
    """The sign that most elements elect; trimmed ones and exact ties elect nobody."""
    base = torch.zeros(400)
    models = [torch.zeros(400), torch.zeros(400)]
    models[0][:100], models[1][:60] = 3.0 * sign, -1.0 * sign  # 100 elect sign: 60 of 3 - 1, 40 of 3
    models[1][100:190] = -2.0 * sign  # 90 elect the other
    models[0][200:300], models[1][200:300] = 1.0, -1.0  # 100 ties
    merge = Job([("task_arithmetic", {})], models, base, fused=fused)
    assert Sweep()(SignBalance(Scope.MODEL), merge) == sign
    assert Sweep()(SignBalance(Scope.MODEL, (1.0, -1.0)), merge) == sign  # 190 elect sign, the 100 elect plus
    assert Sweep()(SignBalance(Scope.MODEL, (-1.0, -1.0)), merge) == -sign
    # Weighted 1 : 5, the 60 go over: 60 + 90 against 40 for the other sign, and the 100 for minus.
    assert Sweep()(SignBalance(Scope.MODEL, (1.0, 5.0)), merge) == -sign


def test_an_even_balance_is_minus() -> None:
    """As the TIES authors' code: it takes the negative entries where the sign of the whole is not positive."""
    merge = Job([("task_arithmetic", {})], [torch.tensor([1.0, -1.0, 0.0])], torch.zeros(3))
    assert Sweep()(SignBalance(Scope.MODEL), merge) == -1


# ---- the exact quantile ---------------------------------------------------------------------------------------------

#: Densities, and the mask rates that say the same where a code takes those.
RATES = {0.0: 1.0, 1e-4: 0.9999, 0.2: 0.8, 0.29: 0.71, 0.5: 0.5, 0.8: 0.2, 0.9: 0.1, 0.999: 0.001, 1.0: 0.0}
DENSITIES = tuple(RATES)


def ranks(total: int, density: float) -> dict[str, int]:
    """The rank at which keeping starts, from the smallest, written as the three codes write it."""
    return {
        "official": total - int(total * density),
        "exact": total - max(1, int(density * total)) + 1,
        "mask_rate": int(total * RATES[density]),
    }


def hard(total: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Returns magnitudes that a search for a quantile may stumble on."""
    source = torch.Generator().manual_seed(total)
    usual = torch.randn(total, generator=source, dtype=torch.float64).to(dtype)
    place = torch.arange(total)
    most = torch.rand(total, generator=source)
    found = {
        "usual": usual,
        "all equal": torch.full((total,), -0.125, dtype=dtype),
        "all zero": torch.zeros(total, dtype=dtype),
        "mostly zero": usual.where(most < 0.1, -0.0),
        "few values": (usual * 3).round() / 8,
        "bf16": (usual.bfloat16() - usual.roll(1).bfloat16()).to(dtype),
        "denormal": (usual * torch.finfo(dtype).tiny).to(dtype) / 64,
        "infinite": usual.where(most < 0.6, float("inf")),
        "nan": usual.where(most < 0.7, float("nan")),
        "one cluster": 1 + usual * torch.finfo(dtype).eps * 40,
        "every size": usual * 2.0 ** ((most * 200 - 100).to(dtype)),
        "rising": place.to(dtype) / total,
        "liar": usual.where(place // BLOCK % 2 == 0, 1e6 + usual),
        "liar in stretches": usual.where(place // STRETCH % 3 == 0, 1e-6 * usual),
        "neighbours": torch.where(most < 0.5, 1.0, 1 + torch.finfo(dtype).eps).to(dtype),
    }
    return {name: each.to(dtype) for name, each in found.items()}


def cuts(
    deltas: Sequence[torch.Tensor], statistic: MagnitudeQuantile, *, fused: bool, swept: bool
) -> tuple[float, ...]:
    """Returns the cuts that the engine finds for models that are these differences from zero."""
    double = deltas[0].dtype == torch.float64
    values = {"density": statistic.density, "scope": "tensor", "count": statistic.rank}
    merge = Job(
        [("ties", values)],
        deltas,
        torch.zeros_like(deltas[0]),
        fused=fused,
        double=double,
        resident_bytes=0 if swept else 1 << 40,
    )
    merge.settle() if swept else merge.run()
    return tuple(
        merge.chains[0].results[Request(0, MagnitudeQuantile(Scope.TENSOR, statistic.density, statistic.rank))]
    )


def check(deltas: torch.Tensor, *, fused: bool, swept: bool = False) -> None:
    """Holds every density and rank against torch.sort."""
    total = deltas.numel()
    magnitudes = deltas.abs().sort().values
    for kind in ("official", "exact", "mask_rate"):
        found = cuts(
            [deltas] * len(DENSITIES), MagnitudeQuantile(Scope.TENSOR, DENSITIES, kind), fused=fused, swept=swept
        )  # type: ignore[arg-type]
        for density, cut in zip(DENSITIES, found, strict=True):
            rank = ranks(total, density)[kind]
            expected = math.inf if density == 0 else 0.0 if density == 1 or rank == 0 else float(magnitudes[rank - 1])
            assert cut == expected or (math.isnan(cut) and math.isnan(expected)), (kind, density, cut, expected)


NAMES = list(hard(4, torch.float32))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
def test_quantile_of_small_tensors(name: str, dtype: torch.dtype, fused: bool) -> None:
    """The k-th magnitude is the one that sorting finds, bit for bit."""
    check(hard(5000, dtype)[name], fused=fused)


@pytest.mark.parametrize("total", [0, 1, 2, 3, 9, 10, 11])
def test_quantile_of_tiny_tensors(total: int) -> None:
    """Shares of very few elements round as the three codes round them."""
    check(hard(total, torch.float32)["usual"], fused=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("swept", [False, True], ids=["held", "swept"])
def test_quantile_of_sampled_tensors(name: str, swept: bool) -> None:
    """Where a sample guesses the window, also when the sample misleads."""
    deltas = hard(300_000, torch.float32)[name]
    assert MagnitudeQuantile(Scope.TENSOR).init([Part("w", deltas.numel(), tuple(deltas.shape))], 1, False).sampling > 1
    check(deltas, fused=True, swept=swept)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
def test_quantile_of_large_tensors(name: str, dtype: torch.dtype, fused: bool) -> None:
    """Both ways and precisions, on more elements than a sample of one in sixty-four needs."""
    deltas = hard(9_000_000 if fused and name in {"usual", "few values", "liar"} else 600_000, dtype)[name]
    for swept in (False, True):
        check(deltas, fused=fused, swept=swept)


def test_quantile_over_a_model() -> None:
    """One cut per model over all tensors together, whatever their sizes."""
    models, base = party()
    merge = job(False, True)
    found = Sweep()(MagnitudeQuantile(Scope.MODEL, (0.5,)), merge)
    for model, cut in zip(models, found, strict=True):
        every = torch.cat([(model[name] - base[name]).reshape(-1).abs() for name in SHAPES]).sort().values
        assert cut == float(every[len(every) - int(len(every) * 0.5) - 1])
    alone = list(itertools.chain(SHAPES))
    assert [chain.part.name for chain in merge.chains] == alone
