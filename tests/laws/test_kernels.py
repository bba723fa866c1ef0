"""The fused kernels against the torch functions they stand for: the same bits, whatever is merged.

Both ways do the same operations in the same order in the same precision and round once, so results are compared bit
for bit, the sign of a zero included; only the payload of a NaN is free. Coefficients here are short binary fractions,
which both ways hold exactly; where they are not, `test_coefficients_that_need_rounding` says what may differ and why.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from eutectic.engine.reader import Worker
from eutectic.methods import METHODS
from eutectic.methods.declare import Method
from eutectic.numerics.kernels import BLOCK, GRAIN
from tests.make.memory import TORCH, from_bytes
from tests.make.sites import Job, Step

from .samples import Party, Values, filled, options, parties, plain

FUSED = pytest.mark.parametrize("method", [m for m in METHODS.values() if m.fused], ids=lambda m: m.name)
OUTPUTS = ("F64", "F32", "F16", "BF16")
#: Stored types of the base and three models.
TYPES: dict[str, tuple[str, str, str, str]] = {
    "bf16": ("BF16", "BF16", "BF16", "BF16"),
    "f16": ("F16", "F16", "F16", "F16"),
    "f32": ("F32", "F32", "F32", "F32"),
    "f64": ("F64", "F64", "F64", "F64"),
    "mixed": ("BF16", "F32", "F16", "BF16"),
    "all": ("F32", "F64", "BF16", "F16"),
}


def values(dtype: str, count: int, seed: int, special: bool) -> torch.Tensor:
    """Returns numbers with many equal magnitudes; `special` sows in what floats can be at their worst."""
    source = torch.Generator().manual_seed(seed)
    made = torch.randint(-6, 7, (count,), generator=source).to(torch.float64) / 4
    rest = torch.randn(count, generator=source, dtype=torch.float64)
    made = made.where(torch.rand(count, generator=source) < 0.7, rest).to(TORCH[dtype])
    if special:
        limits, inf = torch.finfo(TORCH[dtype]), float("inf")
        small = limits.smallest_normal
        worst = torch.tensor(
            [0.0, -0.0, small, small / 4, -small / 2, limits.max, limits.min, inf, -inf, float("nan")],
            dtype=TORCH[dtype],
        )
        picks = torch.randint(0, len(worst), (count,), generator=source)
        made = worst[picks].where(torch.rand(count, generator=source) < 0.2, made)
    return made


def job(
    chain: Sequence[Step],
    party: Party,
    types: Sequence[str],
    shape: tuple[int, ...],
    *,
    special: bool = False,
    **how: Any,
) -> Job:
    """Returns a settled merge of numbers in these stored types; its statistics are those of the fused path."""
    count = int(np.prod(shape))
    base, *models = (values(dtype, count, 7 * at, special).reshape(shape) for at, dtype in enumerate(types))
    how = {"double": "F64" in types} | how
    return Job(chain, models[: party.n], base if party.base else None, fused=True, **how).settle()


def outcomes(merge: Job, dtype: str) -> Iterator[tuple[torch.Tensor, int, bytes]]:
    """Yields what the kernels make of a settled merge, then what torch makes of it.

    Each time the tensor, how much is not finite, and the extras.
    """
    chain = merge.chains[0]
    worker = Worker(merge.inputs)
    rows = worker.load(chain, 0, chain.part.numel)
    for fused in (True, False):
        chain.fused = fused
        raw = np.zeros(rows.count * torch.empty(0, dtype=TORCH[dtype]).itemsize, np.uint8)
        extras = worker.extras(chain.site, 0, rows.count)
        bad = chain.combine(rows, raw, dtype, extras)
        yield from_bytes(raw, dtype, chain.site.spec.shape), bad, b"".join(each.tobytes() for each in extras)


def difference(merge: Job, dtype: str) -> str:
    """Says how the two ways differ; nothing when their bits are the same."""
    (fused, bad, extras), (plain, expected, wanted) = outcomes(merge, dtype)
    if extras != wanted:
        return f"{sum(a != b for a, b in zip(extras, wanted, strict=True))} bytes of the extras"
    if not torch.equal(fused.isnan(), plain.isnan()):
        return f"NaN at {torch.nonzero(fused.isnan() != plain.isnan()).tolist()[:3]}"
    if bad != expected or bad != int((~plain.isfinite()).sum()):
        return f"{bad} counted as not finite by the kernels, {expected} by torch, of {int((~plain.isfinite()).sum())}"
    width = {8: torch.int64, 4: torch.int32, 2: torch.int16}[fused.itemsize]
    # A dimension is added because a 0-d tensor cannot be viewed as another type in every version of torch.
    unequal = fused.nan_to_num(0)[None].view(width) != plain.nan_to_num(0)[None].view(width)
    if unequal.any():
        at = torch.nonzero(unequal[0])[0].tolist()
        return f"{int(unequal.sum())} differ, at {at}: {fused[tuple(at)].item()!r} is not {plain[tuple(at)].item()!r}"
    return ""


def chain_of(method: Method[Any], chosen: Values) -> list[Step]:
    """Returns a chain with the method in it.

    A transform is completed by a combine of deltas: one that keeps everything has no stages in the kernels, which then
    average the weights as they are, where torch averages base + (weights - base).
    """
    return [(method.name, chosen)] if method.combines else [(method.name, chosen), ("task_arithmetic", {"scale": 0.5})]


def expressible(method: Method[Any], party: Party) -> Iterator[Values]:
    """Yields the options of a method that its kernels can express."""
    for chosen in options(method, party):
        if method.needs_for(filled(method, chosen)).fused:
            yield chosen


@FUSED
@pytest.mark.parametrize("types", TYPES)
def test_every_option(method: Method[Any], types: str) -> None:
    """Every combination of words and switches, with NaN, infinities, denormals, -0.0 and ties, in every type."""
    wrong = []
    for party in parties(method):
        for at, chosen in enumerate(expressible(method, party)):
            merge = job(chain_of(method, chosen), party, TYPES[types], (9, 11), special=at % 2 == 0)
            out = [dtype for dtype in OUTPUTS if difference(merge, dtype)]
            wrong += [(chosen, party.n, dtype, difference(merge, dtype)) for dtype in out]
    assert wrong == []


@FUSED
@pytest.mark.parametrize("count", [0, 1, 15, 16, BLOCK - 1, BLOCK, BLOCK + 1, GRAIN - 1, GRAIN, GRAIN + 1])
def test_lengths(method: Method[Any], count: int) -> None:
    """Around the edges of blocks and grains nothing is lost or counted twice."""
    for party in parties(method):
        merge = job(chain_of(method, plain(method)), party, TYPES["mixed"], (count,), special=count < GRAIN)
        assert difference(merge, "F32") == ""
        assert difference(merge, "BF16") == ""


@FUSED
@pytest.mark.parametrize("shape", [(), (0, 5), (5, 0), (1, 1, 1), (2, 3, 4)], ids=str)
def test_shapes(method: Method[Any], shape: tuple[int, ...]) -> None:
    """Scalars, empty tensors and tensors of many axes."""
    for party in parties(method):
        for chosen in expressible(method, party):
            assert difference(job(chain_of(method, chosen), party, TYPES["f32"], shape), "F32") == "", chosen


@FUSED
@pytest.mark.parametrize("types", [("F32", "F32", "F32", "F32"), ("BF16", "F32", "F32", "F32"), ("F64",) * 4], ids=str)
@pytest.mark.parametrize("special", [False, True], ids=["usual", "special"])
def test_adapters(method: Method[Any], types: tuple[str, ...], special: bool) -> None:
    """Models that come as differences from the base."""
    for party in [Party(party.n, True) for party in parties(method)[:1]]:
        for chosen in expressible(method, party):
            merge = job(chain_of(method, chosen), party, types, (7, 5), special=special, deltas=[True] * party.n)
            assert difference(merge, "F32") == "", chosen


@FUSED
@pytest.mark.parametrize("which", [(True, False, False), (False, True, True)], ids=str)
def test_adapters_beside_models(method: Method[Any], which: tuple[bool, ...]) -> None:
    """Some models as they are, some as differences from the base; numbers are such that (x - b) + b is x."""
    party = Party(parties(method)[0].n, True)
    for chosen in expressible(method, party):
        source = torch.Generator().manual_seed(5)
        base, *rest = (torch.randint(-32, 33, (7, 5), generator=source).float() / 8 for _ in range(4))
        merge = Job(chain_of(method, chosen), rest[: party.n], base, fused=True, deltas=which[: party.n]).settle()
        assert difference(merge, "F32") == "", chosen


CHAINS: dict[str, list[Step]] = {
    "dare-ties": [("dare", {"density": 0.5}), ("ties", {"density": (0.5, 1.0, 0.25), "scope": "tensor"})],
    "trim-dare-linear": [("trim", {"density": 0.5}), ("dare", {"density": 0.75}), ("linear", {})],
    "dare-l1-stock": [("dare", {"density": 0.5, "rescale": "l1"}), ("model_stock", {})],
    "trim-l1-task": [("trim", {"density": 0.5, "rescale": "l1"}), ("task_arithmetic", {"scale": 0.5})],
    "della-ties": [
        ("della", {"density": 0.5, "epsilon": 0.25}),
        ("ties", {"density": 0.5, "scope": "tensor"}),
    ],
    "crumbs-della-task": [
        ("breadcrumbs", {"density": 0.5}),
        ("della", {"density": 0.5, "epsilon": 0.25, "rescale": "l1"}),
        ("task_arithmetic", {"scale": 0.5}),
    ],
    "crumbs-sce": [
        ("breadcrumbs", {"density": 0.75, "scope": "tensor"}),
        ("sce", {"select_topk": 0.25, "mask": "deltas"}),
    ],
    "dare-emr": [("dare", {"density": 0.5}), ("emr", {})],
    "trim-tall-ties": [("trim", {"density": 0.75}), ("tall_masks", {"vector": "ties", "density": 0.5})],
    "dare-consensus": [("dare", {"density": 0.5}), ("consensus", {"threshold": 0.25})],
    "dare-dare-linear": [("dare", {"density": 0.5}), ("dare", {"density": 0.5}), ("linear", {})],
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("types", TYPES)
def test_chains(chain: str, types: str) -> None:
    """Transforms before a combine, of deltas or of weights."""
    merge = job(CHAINS[chain], Party(3, True), TYPES[types], (40, 60))
    assert [difference(merge, dtype) for dtype in OUTPUTS] == [""] * 4


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_transform_before_slerp(double: bool) -> None:
    """A combine of weights sees base + what the transforms left, in its statistics too."""
    chain: list[Step] = [("trim", {"density": 0.25}), ("slerp", {"t": 0.5, "parallel": 0.9})]
    base, model = (values("F32", 99, seed, False) for seed in (1, 2))
    fused, plain = (
        Job(chain, [model], base, double=double, out="F64", fused=f).run().tensor("w") for f in (True, False)
    )
    assert torch.allclose(fused, plain, rtol=0, atol=1e-12 if double else 1e-6)
    trimmed = base + (model - base).where((model - base).abs() >= (model - base).abs().topk(25).values[-1], 0.0)
    alone = Job(chain[1:], [trimmed], base, double=double, out="F64").run().tensor("w")
    assert torch.allclose(fused, alone, rtol=0, atol=1e-5)


@FUSED
def test_float64_models_in_float32(method: Method[Any]) -> None:
    """A recipe may ask for float32 work on models stored in float64."""
    for party in parties(method):
        merge = job(chain_of(method, plain(method)), party, TYPES["all"], (9, 11), double=False)
        assert [difference(merge, dtype) for dtype in OUTPUTS] == [""] * 4


AWKWARD: dict[str, Values] = {
    "linear": {"weight": (0.3, 0.6, 0.2)},
    "task_arithmetic": {"weight": (0.3, -0.7, 1.1), "scale": 0.3, "normalize": True},
    "ties": {"weight": (0.3, 0.7, 0.4), "density": (0.3, 0.6, 0.7), "scope": "tensor", "average": "weight"},
    "dare": {"density": (0.3, 0.7, 0.1)},
}


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("types", ["bf16", "f32", "f64"])
def test_coefficients_that_need_rounding(name: str, types: str) -> None:
    """A weight of 0.3 reaches torch rounded and the kernels in full: each term may differ by two work roundings.

    The sum of n terms then differs by at most 2 eps (|base| + sum |w x|) beside one rounding of the output.
    """
    merge = job(chain_of(METHODS[name], AWKWARD[name]), Party(3, True), TYPES[types], (30, 40))
    work = torch.finfo(torch.float64 if types == "f64" else torch.float32)
    for dtype in OUTPUTS:
        (fused, *_), (plain, *_) = outcomes(merge, dtype)
        size = 40.0  # |base| + sum |w x| with weights up to 10 and numbers up to 4
        room = 2 * work.eps * size + torch.finfo(fused.dtype).eps * plain.double().abs() + torch.finfo(fused.dtype).tiny
        assert ((fused.double() - plain.double()).abs() <= room).all()
