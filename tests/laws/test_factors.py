"""Every method on factors against everything it declares. A method is tested here from the moment it is listed."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from eutectic.adapters.factors import Factors
from eutectic.methods import METHODS
from eutectic.methods.declare import Domain, Laws, Method
from eutectic.methods.site import Coordinates
from tests.make.factors import made, merged, mixed, updates

from .samples import POWERS, Party, Values, aside, filled, settings

ON_FACTORS = {name: method for name, method in METHODS.items() if method.needs.domain is Domain.FACTORS}
ALL = pytest.mark.parametrize("method", ON_FACTORS.values(), ids=ON_FACTORS)
Parts = tuple[Factors, ...]
#: Three adapters of one rank: methods that take others have tests of their own for those.
SAMPLES: tuple[Parts, ...] = tuple(
    updates(3, shape, (3,), seed) for seed, shape in enumerate([(7, 9), (12, 5), (4, 4)])
)
Law = Callable[[Method[Any], Values, Parts], tuple[torch.Tensor, torch.Tensor]]


def count(method: Method[Any]) -> int:
    """Returns how many adapters a method is tried with."""
    return min(3, method.needs.models.high or 3)


def run(method: Method[Any], values: Values, parts: Sequence[Factors], seed: int = 0) -> torch.Tensor:
    """Merges updates."""
    return merged((method.name, values), parts, seed=seed)


def dense(part: Factors) -> torch.Tensor:
    """Returns an update, (d_out, d_in)."""
    return part.dense()


def symmetric(method: Method[Any], values: Values, parts: Parts) -> tuple[torch.Tensor, torch.Tensor]:
    """Permuting the adapters, with their parameters, does not change the result."""
    order = (*range(1, len(parts)), 0)
    moved = {k: tuple(v[at] for at in order) if isinstance(v, tuple) else v for k, v in values.items()}
    return run(method, moved, [parts[at] for at in order]), run(method, values, parts)


def fixed_point(method: Method[Any], values: Values, parts: Parts) -> tuple[torch.Tensor, torch.Tensor]:
    """Adapters that change nothing make one that changes nothing."""
    nothing = [dataclasses.replace(part, b=torch.zeros_like(part.b)) for part in parts]
    return run(method, values, nothing), torch.zeros(parts[0].shape, dtype=parts[0].b.dtype)


def identity(method: Method[Any], values: Values, parts: Parts) -> tuple[torch.Tensor, torch.Tensor]:
    """Copies of one adapter give its update."""
    return run(method, values, [parts[0]] * len(parts)), dense(parts[0])


def shift(method: Method[Any], values: Values, parts: Parts) -> tuple[torch.Tensor, torch.Tensor]:
    """The base is never seen, so that what is added to it and to all models is added to the result."""
    return run(method, values, parts), run(method, values, parts)


def scale(method: Method[Any], values: Values, parts: Parts) -> tuple[torch.Tensor, torch.Tensor]:
    """Multiplying every B by a power of two multiplies the result."""
    scaled = [[dataclasses.replace(part, b=part.b * 2.0**power) for part in parts] for power in POWERS]
    found = [run(method, values, each) / 2.0**power for each, power in zip(scaled, POWERS, strict=True)]
    return torch.stack(found), torch.stack([run(method, values, parts)] * len(POWERS))


def gauge(method: Method[Any], values: Values, parts: Parts) -> tuple[torch.Tensor, torch.Tensor]:
    """Other factors of the same updates give the same result."""
    others = [mixed(part, seed) for seed, part in enumerate(parts)]
    return run(method, values, others), run(method, values, parts)


LAWS: dict[str, Law] = {law.__name__: law for law in (symmetric, fixed_point, identity, shift, scale, gauge)}
EACH = pytest.mark.parametrize("law", LAWS)


def cases(method: Method[Any]) -> Iterator[tuple[Values, frozenset[str], Parts]]:
    """Yields values, which of them are changed, and adapters."""
    for values, changed in settings(method, Party(count(method), True)):
        for parts in SAMPLES if not changed else SAMPLES[:2]:
            yield values, changed, parts[: count(method)]


def holds(method: Method[Any], law: str, values: Values, parts: Parts) -> bool:
    """Whether a law holds on one case."""
    found, expected = LAWS[law](method, values, parts)
    size = max(1.0, float(expected.abs().max()), *(float(dense(part).abs().max()) for part in parts))
    return bool(torch.isfinite(found).all()) and bool(((found - expected).abs() <= 1e-9 * size).all())


def test_laws_are_all_tested() -> None:
    """Every law that can be declared has its function here, and there are methods to try them on."""
    assert set(LAWS) == {entry.name for entry in dataclasses.fields(Laws)}
    assert ON_FACTORS


@ALL
@EACH
def test_declared_laws(method: Method[Any], law: str) -> None:
    """A law declared True holds on every sample; for one declared False there is a counter-example."""
    lost = aside(method)
    tried = [(v, parts) for v, changed, parts in cases(method) if not any(law in lost.get(c, ()) for c in changed)]
    if getattr(method.laws, law):
        assert [values for values, parts in tried if not holds(method, law, values, parts)] == []
    else:
        assert any(not holds(method, law, *case) for case in tried), f"{method.name} obeys {law}: declare it"


@ALL
def test_laws_set_aside_are_broken(method: Method[Any]) -> None:
    """Where a method's own test says that an option gives up a law, there is a counter-example."""
    for name, laws in aside(method).items():
        tried = [(values, parts) for values, changed, parts in cases(method) if name in changed]
        for law in laws:
            assert getattr(method.laws, law), f"{law} is not declared, so {name} cannot set it aside"
            assert any(not holds(method, law, *case) for case in tried), f"{name} does not break {law}"


@ALL
def test_random_iff_the_seed_matters(method: Method[Any]) -> None:
    """Results depend on the seed exactly where a method says that it draws, with these values."""
    differ: dict[bool, list[bool]] = {True: [], False: []}
    for values, _, parts in cases(method):
        first, second = (run(method, values, parts, seed) for seed in (0, 1))
        differ[method.needs_for(filled(method, values)).random].append(not torch.equal(first, second))
    assert not any(differ[False])
    assert any(differ[True]) == method.needs.random


@ALL
def test_result_is_what_is_declared(method: Method[Any]) -> None:
    """A combine returns an update of the declared rank, a transform coordinates that give the updates back."""
    for values, _, parts in cases(method):
        found = made((method.name, values), parts)
        needs = method.needs_for(filled(method, values))
        ranks = [part.rank for part in parts]
        if method.combines:
            assert tuple(found.shape) == parts[0].shape
            if isinstance(found, Factors) and needs.rank != "full":
                assert found.rank <= sum(ranks)
            continue
        assert isinstance(found, Coordinates)
        out, columns = parts[0].shape
        if needs.basis == "factors":
            assert found.rights is not None
            assert found.values.shape == (len(parts), out, max(ranks))
            assert found.rights.shape == (len(parts), max(ranks), columns)
            continue
        k = out if needs.basis == "none" else min(out, sum(ranks))
        m = min(columns, sum(ranks)) if needs.basis == "both" else columns
        assert found.values.shape == (len(parts), k, m)
