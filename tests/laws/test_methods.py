"""Every method against everything it declares. A method is tested here from the moment it is listed."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from eutectic.engine.chain import Chain, Request
from eutectic.errors import UndeclaredNeed
from eutectic.methods import METHODS
from eutectic.methods.declare import Domain, Laws, Locality, Method
from eutectic.methods.site import Site
from eutectic.numerics.draw import Key
from eutectic.numerics.kernels import GRAIN
from eutectic.stats.fold import Calibrated
from tests.make.sites import Job, Step, merge

from .samples import (
    POWERS,
    Party,
    Sample,
    Values,
    aside,
    draw,
    filled,
    parties,
    plain,
    samples,
    settings,
    steps,
    suited,
    wants_base,
)

#: Methods on factors have laws of their own, in `test_factors`.
DENSE = {name: method for name, method in METHODS.items() if method.needs.domain is not Domain.FACTORS}
ALL = pytest.mark.parametrize("method", DENSE.values(), ids=DENSE)
SAMPLES = samples()
#: What changing one option is tried on; the plain values are tried on all samples.
FEW = [sample for sample in SAMPLES if sample.name.startswith(("16x33", "5x7", "most", "equal"))]
Case = tuple[Values, Party, Sample]
Law = Callable[[Method[Any], Case], tuple[torch.Tensor, torch.Tensor]]


def run(method: Method[Any], case: Case, **how: Any) -> torch.Tensor:
    """Merges a sample as a plan would, in the sample's own precision."""
    values, party, sample = case
    models, base = party.pick(sample)
    double = sample.base.dtype == torch.float64
    return merge(steps(method, values), models, base, double=double, data=sample.data[: party.n], **how)


def near(found: torch.Tensor, expected: torch.Tensor, size: float) -> bool:
    """Whether two tensors differ by no more than the roundings of a short sum of numbers up to `size`."""
    room = 32 * torch.finfo(found.dtype).eps * size
    return bool(torch.isfinite(found).all()) and bool(((found - expected).abs() <= room).all())


# ---- the laws -------------------------------------------------------------------------------------------------------


def symmetric(method: Method[Any], case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Permuting the models, with their parameters, does not change the result."""
    values, party, sample = case
    order = (*range(1, party.n), 0)
    moved = {k: tuple(v[at] for at in order) if isinstance(v, tuple) else v for k, v in values.items()}
    rest = tuple(range(party.n, len(sample.models)))
    return run(method, (moved, party, sample.permuted((*order, *rest)))), run(method, case)


def fixed_point(method: Method[Any], case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """When every model equals the base (or, without one, one tensor), so does the result."""
    values, party, sample = case
    return run(method, (values, party, sample.copies(sample.base))), sample.base


def identity(method: Method[Any], case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Copies of one model give that model."""
    values, party, sample = case
    same = sample.copies(sample.models[0])
    same = dataclasses.replace(same, base=sample.models[0]) if method.needs.base_counts else same
    return run(method, (values, party, same)), sample.models[0]


def shift(method: Method[Any], case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Adding one tensor to the base and every model adds it to the result."""
    values, party, sample = case
    return run(method, (values, party, sample.shifted())), run(method, case) + sample.shift


def scale(method: Method[Any], case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Multiplying base and models by a power of two multiplies the result."""
    values, party, sample = case
    found = [run(method, (values, party, sample.scaled(power))) / 2.0**power for power in POWERS]
    return torch.stack(found), torch.stack([run(method, case)] * len(found))


LAWS: dict[str, Law] = {law.__name__: law for law in (symmetric, fixed_point, identity, shift, scale)}
EACH = pytest.mark.parametrize("law", LAWS)


def cases(method: Method[Any], law: str) -> Iterator[Case]:
    """Yields what a law is tried on, but for the options that the method's own test sets it aside for."""
    lost = aside(method)
    for party in parties(method):
        for values, changed in settings(method, party):
            if not any(law in lost.get(name, ()) for name in changed):
                yield from ((values, party, sample) for sample in suited(method, FEW if changed else SAMPLES))


def holds(method: Method[Any], law: str, case: Case) -> bool:
    """Whether a law holds on one case."""
    found, expected = LAWS[law](method, case)
    return near(found, expected, 4 * max(1.0, *_magnitudes(case[0])) * case[2].size)


def _magnitudes(values: Values) -> Iterator[float]:
    yield 1.0
    for value in values.values():
        yield from (abs(v) for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, float))


def test_laws_are_all_tested() -> None:
    """Every law that can be declared has its function here."""
    assert set(LAWS) | {"gauge"} == {entry.name for entry in dataclasses.fields(Laws)}
    assert all(method.laws.gauge for method in DENSE.values()), "a method that never sees factors cannot break it"


@ALL
@EACH
def test_declared_laws(method: Method[Any], law: str) -> None:
    """A law declared True holds on every sample; for one declared False there is a counter-example."""
    tried = list(cases(method, law))
    if getattr(method.laws, law):
        broken = [(case[0], case[1], case[2].name) for case in tried if not holds(method, law, case)]
        assert broken == []
    else:
        assert any(not holds(method, law, case) for case in tried), f"{method.name} obeys {law}: declare it"


@ALL
def test_laws_set_aside_are_broken(method: Method[Any]) -> None:
    """Where a method's own test says that an option gives up a law, there is a counter-example."""
    for name, laws in aside(method).items():
        for law in laws:
            assert getattr(method.laws, law), f"{law} is not declared, so {name} cannot set it aside"
            tried = [
                (values, party, sample)
                for party in parties(method)
                for values, changed in settings(method, party)
                if name in changed
                for sample in suited(method, SAMPLES)
            ]
            assert any(not holds(method, law, case) for case in tried), f"{name} does not break {law}"


# ---- what a method needs --------------------------------------------------------------------------------------------


@ALL
def test_random_iff_the_seed_matters(method: Method[Any]) -> None:
    """Results depend on the seed exactly where a method says that it draws."""
    differ = []
    for party in parties(method):
        for values, changed in settings(method, party):
            for sample in suited(method, FEW if changed else SAMPLES):
                first, second = (run(method, (values, party, sample), seed=seed) for seed in (0, 1))
                differ.append(not torch.equal(first, second))
    assert any(differ) == method.needs.random


@ALL
def test_base_iff_read(method: Method[Any]) -> None:
    """Without a base, a method that declares one raises UndeclaredNeed; one that does not never asks."""
    n = parties(method)[0].n
    for values, changed in settings(method, Party(n, True)):
        for sample in suited(method, FEW if changed else SAMPLES):
            job = Job(steps(method, values), list(sample.models[:n]), fused=False)
            if wants_base(method, values):
                with pytest.raises(UndeclaredNeed, match=r"Needs\(base=True\)"):
                    job.run()
            else:
                job.run()


@ALL
def test_a_base_that_is_not_declared_changes_nothing(method: Method[Any]) -> None:
    """A base that is there for an adapter's sake is not read by methods that do not ask for one."""
    if method.needs.base or method.needs.base_counts:
        pytest.skip("reads the base")
    for values, _ in settings(method, parties(method)[0]):
        sliced = method.needs_for(filled(method, values)).locality is Locality.ELEMENT
        for sample in FEW:
            models = list(sample.models[: parties(method)[0].n])
            for fused in (False, True) if method.fused and sliced else (False,):
                how: dict[str, Any] = {"double": sample.base.dtype == torch.float64, "fused": fused}
                with_base = merge(steps(method, values), models, sample.base, **how)
                assert torch.equal(with_base, merge(steps(method, values), models, None, **how))


class Read(dict[str, Any]):
    """Results that remember which of them were read."""

    def __init__(self, results: dict[str, Any]) -> None:
        super().__init__(results)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)


def site_of(chain: Chain, sample: Sample, party: Party) -> tuple[Site, dict[str, Any], Read]:
    """Returns the site of a settled chain's first step, its hyperparameters, and its statistics, watched."""
    step = chain.site.steps[0]
    read = Read({name: chain.results[Request(0, fold)] for name, fold in step.method.folds(**step.values).items()})
    read |= chain._of_data(0, 0, tuple(sample.base.shape))
    models, base = party.pick(sample)
    site = Site("w", party.n, Key(0, "w"), read, torch.stack(models), base, width=chain.part.width)
    per_model = {own.name for own in step.method.parameters if own.bounds.per_model}
    return site, {k: site.column(v) if k in per_model else v for k, v in step.values.items()}, read


@ALL
def test_folds_iff_read(method: Method[Any]) -> None:
    """A method reads every statistic that it declares, and fails loudly when one is missing."""
    sample = next(each for each in SAMPLES if each.name.startswith("16x33"))
    for party in parties(method):
        for values, _ in settings(method, party):
            models, base = party.pick(sample)
            job = Job(steps(method, values), models, base, fused=False).settle()
            site, arguments, read = site_of(job.chains[0], sample, party)
            method(site, **arguments)
            assert read.names == set(read), values
            for name in read:
                rest = dataclasses.replace(site, results={k: v for k, v in read.items() if k != name})
                with pytest.raises(UndeclaredNeed, match=f"fold '{name}'"):
                    method(rest, **arguments)


@ALL
def test_result_has_the_declared_shape(method: Method[Any]) -> None:
    """A combine returns (*shape) and a transform (n, *shape), in work precision."""
    for party in parties(method):
        for sample in suited(method, SAMPLES):
            models, base = party.pick(sample)
            double = sample.base.dtype == torch.float64
            job = Job(steps(method, plain(method)), models, base, fused=False, double=double).settle()
            site, arguments, _ = site_of(job.chains[0], sample, party)
            result = method(site, **arguments)
            assert result.dtype == sample.base.dtype
            assert result.shape == (sample.base.shape if method.combines else torch.stack(models).shape)


# ---- locality -------------------------------------------------------------------------------------------------------

LONG = draw((2 * GRAIN + 77,), 40, torch.float32)
WIDE = draw((3, GRAIN // 2 + 3), 41, torch.float32)
#: For methods that hold a square matrix of the inputs' width.
NARROW = draw((90, 40), 42, torch.float32)


def equal_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two float32 tensors hold the same bytes, but for their shape."""
    return torch.equal(left.reshape(-1).view(torch.int32), right.reshape(-1).view(torch.int32))


@ALL
def test_slices_merge_like_the_whole(method: Method[Any]) -> None:
    """Where a method may be sliced, slices of the merge are merges of the slices, to the last bit."""
    for party in parties(method):
        for values, _ in settings(method, party):
            locality = method.needs_for(filled(method, values)).locality
            if locality is Locality.TENSOR:
                continue
            sample = LONG if locality is Locality.ELEMENT else WIDE
            cut = GRAIN if locality is Locality.ELEMENT else sample.base.shape[-1]
            for fused in (False, True) if locality is Locality.ELEMENT and method.fused else (False,):
                job = Job(steps(method, values), *party.pick(sample), fused=fused).settle()
                size = sample.base.numel()
                parts = [job.map(start, min(size, start + cut)).reshape(-1) for start in range(0, size, cut)]
                assert equal_bits(torch.cat(parts), job.map()), (values, fused)


def long(method: Method[Any]) -> list[Sample]:
    """Returns samples of several slices; small ones for methods that hold a square matrix of the width."""
    values = {own.name: own.default for own in method.parameters}
    square = any(not each.aligned for each in method.calibrated(**values).values() if isinstance(each, Calibrated))
    return [NARROW] if square else suited(method, (LONG, WIDE))


@ALL
def test_slices_make_the_extras_of_the_whole(method: Method[Any]) -> None:
    """What is made for each model of slices is, laid end to end, what is made of the whole, to the last bit."""
    if not method.extras or method.needs.locality is not Locality.ELEMENT:
        pytest.skip("makes nothing beside the tensor, or nothing in slices")
    for party in parties(method):
        for values, _ in settings(method, party):
            for fused in (False, True):
                job = Job(steps(method, values), *party.pick(LONG), fused=fused).settle()
                size = LONG.base.numel()
                whole = job.extras(0, size)
                parts = [job.extras(start, min(size, start + GRAIN)) for start in range(0, size, GRAIN)]
                for at, expected in enumerate(whole):
                    rows = [part[at].reshape(party.n, -1) if part[at].size else None for part in parts]
                    joined = np.concatenate([row for row in rows if row is not None], axis=1)
                    assert np.array_equal(joined.reshape(-1), expected), (values, fused, method.extras[at].name)


@ALL
def test_every_task_comes_back(method: Method[Any]) -> None:
    """`specialise` gets back a model that is alone: nothing in the way changed it.

    Extras are stored in float32, and decompositions err by the norm of the whole.
    """
    if method.specialise is None:
        pytest.skip("makes nothing for single tasks")
    party = Party(1, method.needs.base)
    for sample in (each for each in FEW if each.base.dtype == torch.float32):
        models, base = party.pick(sample)
        assert base is not None
        sink = Job(steps(method, plain(method)), models, base).run()
        extras = {name: row[0].bool() if row.dtype == torch.uint8 else row[0] for name, row in sink.extras("w").items()}
        assert near(method.specialise(base, sink.tensor("w"), extras), models[0], sample.size * base.numel() ** 0.5)


@ALL
@pytest.mark.parametrize("held", [0, 1 << 30], ids=["swept", "held"])
def test_schedule_changes_nothing(method: Method[Any], held: int) -> None:
    """Small slices, two threads, held in memory or read again: the bytes are the same."""
    for party in parties(method):
        for sample in long(method):
            models, base = party.pick(sample)
            chain = steps(method, plain(method))
            whole = Job(chain, models, base).run()
            cut = Job(chain, models, base, slice_elements=GRAIN, threads=2, resident_bytes=held).run()
            assert equal_bits(whole.tensor("w"), cut.tensor("w"))
            for name, extra in whole.extras("w").items():
                assert torch.equal(extra, cut.extras("w")[name])


ROWS: dict[str, list[Step]] = {
    "ranks, then a cut of the tensor": [
        ("della", {"density": 0.5, "epsilon": 0.25}),
        ("ties", {"density": 0.5, "scope": "tensor"}),
    ],
    "ranks of ranks, and what they leave of the mass": [
        ("breadcrumbs", {"density": 0.5}),
        ("della", {"density": 0.5, "rescale": "l1"}),
        ("model_stock", {}),
    ],
}


@pytest.mark.parametrize("chain", ROWS)
@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
def test_statistics_behind_rows_see_whole_rows(chain: str, fused: bool) -> None:
    """Where slices end within rows, what was ranked before is ranked as in the whole."""
    for sample in (LONG, WIDE):
        models, base = list(sample.models[:3]), sample.base
        whole = Job(ROWS[chain], models, base, fused=fused).run().tensor("w")
        for held in (0, 1 << 30):
            how: dict[str, Any] = {"slice_elements": GRAIN, "threads": 2, "resident_bytes": held, "fused": fused}
            assert equal_bits(whole, Job(ROWS[chain], models, base, **how).run().tensor("w"))
