"""Inputs and hyperparameters that the laws are tried on, made from what a method declares and nothing else."""

import importlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch

from eutectic.methods.declare import Domain, Method, Parameter
from tests.make.sites import Step

Values = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """Models around a base; every number is a small multiple of a power of two, so that differences are exact.

    `data` are the seeds of the models' made-up calibration data.
    """

    name: str
    base: torch.Tensor
    models: tuple[torch.Tensor, ...]
    data: tuple[int, ...] = (0, 1, 2, 3)

    def shifted(self) -> "Sample":
        """Adds one tensor to the base and to every model."""
        return replace(self, base=self.base + self.shift, models=tuple(m + self.shift for m in self.models))

    @property
    def shift(self) -> torch.Tensor:
        """What `shifted` adds: of the size of the numbers themselves."""
        unit = 2.0 ** torch.tensor(float(self.size)).log2().round().item()
        steps = torch.arange(self.base.numel(), dtype=self.base.dtype) % 7 - 2
        return unit / 4 * steps.reshape(self.base.shape)

    @property
    def size(self) -> float:
        """The largest magnitude of all numbers, at least the least normal number."""
        every = torch.stack([self.base, *self.models]).abs()
        return max(float(every.max()) if every.numel() else 1.0, 2.0**-120)

    def scaled(self, power: int) -> "Sample":
        """Multiplies everything by a power of two."""
        factor = 2.0**power
        return replace(self, base=self.base * factor, models=tuple(m * factor for m in self.models))

    def permuted(self, order: tuple[int, ...]) -> "Sample":
        """Puts the models in another order."""
        return replace(self, models=tuple(self.models[at] for at in order), data=tuple(self.data[at] for at in order))

    def copies(self, tensor: torch.Tensor) -> "Sample":
        """Makes every model that tensor."""
        return replace(self, models=tuple(tensor.clone() for _ in self.models))


def draw(shape: tuple[int, ...], seed: int, dtype: torch.dtype, n: int = 4) -> Sample:
    """Returns models that differ everywhere."""
    source = torch.Generator().manual_seed(seed)
    base, *moves = (torch.randint(-32, 33, shape, generator=source).to(dtype) / 8 for _ in range(n + 1))
    return Sample(f"{'x'.join(map(str, shape)) or '0-d'} {dtype}"[:40], base, tuple(base + move for move in moves))


def samples() -> list[Sample]:
    """Returns what every law is tried on: shapes, zeros, equal values, huge and tiny numbers, in both precisions."""
    single, double = torch.float32, torch.float64
    found = [
        draw(shape, at, single) for at, shape in enumerate([(), (0,), (1,), (7,), (0, 3), (3, 5), (2, 3, 4), (16, 33)])
    ]
    found += [draw((5, 7), 20, double), draw((), 21, double)]
    plain = draw((6, 8), 30, single)
    some = torch.arange(48).reshape(6, 8) % 3 == 0
    half = tuple(model.where(some.roll(at), plain.base) for at, model in enumerate(plain.models))
    found.append(replace(plain, name="most deltas zero", models=half))
    found.append(replace(plain, name="zero base", base=torch.zeros(6, 8)))
    signs = torch.where(some, 1.0, -1.0)
    equal = tuple(plain.base + signs * side for side in (1, -1, 1, 1))
    found.append(replace(plain, name="equal magnitudes", models=equal))
    found.append(replace(plain.scaled(60), name="huge"))
    # Methods have absolute guards (a norm of 1e-8, a mass of 1e-7): tiny is above them, and their own tests go below.
    found.append(replace(plain.scaled(-20), name="tiny"))
    return found


def suited(method: Method[Any], tried: Iterable[Sample]) -> list[Sample]:
    """Returns the samples that a plan would give to the method: matrices, where it is for matrices."""
    if method.needs.domain is Domain.LAYERS:
        return [each for each in tried if each.base.dim()]
    return [each for each in tried if method.needs.domain is Domain.ANY or each.base.dim() == 2]


#: The powers of two that the scale law multiplies by.
POWERS = (1, -3, 5)


@dataclass(frozen=True)
class Party:
    """How many models a method gets, and whether a base is there."""

    n: int
    base: bool

    def pick(self, sample: Sample) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Returns so many models of a sample, and its base if there is one."""
        return list(sample.models[: self.n]), sample.base if self.base else None


def parties(method: Method[Any]) -> list[Party]:
    """Returns the parties a method is tried with; a base that it does not read is there only if it counts."""
    needs = method.needs
    most = 3 if needs.models.high is None else needs.models.high
    found = [Party(most, needs.base)]
    if needs.base_counts and not needs.base:
        found.append(Party(most - 1, True))
    if not needs.base and any(wants_base(method, values) for values, _ in settings(method, Party(most, True))):
        found.append(Party(most, True))
    return found


def filled(method: Method[Any], values: Values) -> Values:
    """Returns values with the defaults of those not given."""
    return {own.name: values.get(own.name, own.default) for own in method.parameters}


def wants_base(method: Method[Any], values: Values) -> bool:
    """Whether the method reads a base under these values."""
    return method.needs_for(filled(method, values)).base


def steps(method: Method[Any], values: Values) -> list[Step]:
    """Returns a chain with the method in it: a transform is completed by the plain average, which has every law."""
    return [(method.name, values)] if method.combines else [(method.name, values), ("linear", {})]


def plain(method: Method[Any]) -> Values:
    """Returns values for what a recipe must give; the rest is left to the defaults."""
    return {own.name: _first(own) for own in method.parameters if own.required}


def _first(own: Parameter) -> Any:
    if own.kind == "choice":
        return own.choices[0]
    if own.kind == "bool":
        return False
    return 1 if own.kind == "int" else 0.5 if own.bounds.high is not None else 0.375


def others(method: Method[Any], own: Parameter, n: int) -> list[Any]:
    """Returns further values of one parameter, each of which does something else; those its own test names, if any."""
    tried = getattr(_test_of(method), "TRIED", {}).get(own.name)
    if tried is not None:
        return [value[:n] if isinstance(value, tuple) else value for value in tried]
    default = _first(own) if own.required else own.default
    if own.kind == "choice":
        return [word for word in own.choices if word != default]
    if own.kind == "bool":
        return [not default]
    if own.kind == "int":
        return [value for value in (default + 1, default + 3) if own.bounds.high is None or value <= own.bounds.high]
    if own.bounds.low is not None and own.bounds.high is None:
        return [(0.5, 1.5, 0.25)[:n], (2.0, 0.5, 1.0)[:n]] if own.bounds.per_model else [0.625]
    share = own.bounds.high is not None
    if own.bounds.per_model:
        rows = [(0.25, 1.0, 0.5), (1.0, 1.0, 1.0), (0.0, 0.5, 0.75)] if share else [(0.5, 1.5, -0.25), (2.0, 0.5, 1.0)]
        rows = [row for row in rows if own.bounds.low is None or min(row) >= own.bounds.low]
        return [row[:n] for row in rows]
    return [0.25, 1.0] if share else [value for value in (0.625, -0.5) if own.bounds.low is None or value >= 0]


def settings(method: Method[Any], party: Party) -> Iterator[tuple[Values, frozenset[str]]]:
    """Yields the plain values, then every other value of one parameter at a time; and which parameters are changed.

    Values that want a base are left out for a party without one.
    """
    usual = plain(method)
    changes = [(own.name, value) for own in method.parameters for value in others(method, own, party.n)]
    found = [(usual, frozenset[str]()), *((usual | {name: value}, frozenset({name})) for name, value in changes)]
    yield from (each for each in found if party.base or not wants_base(method, each[0]))


def options(method: Method[Any], party: Party) -> list[Values]:
    """Returns every combination of words and switches, with the numbers of the plain values or, in turn, of others."""
    n = party.n
    words = [own for own in method.parameters if own.kind in {"choice", "bool"}]
    numbers = [own for own in method.parameters if own.kind not in {"choice", "bool"}]
    both = [[_first(own) if own.required else own.default, *others(method, own, n)] for own in words]
    rows: list[Values] = [plain(method)]
    rows += [plain(method) | {own.name: value} for own in numbers for value in others(method, own, n)]
    found = []
    for at, combination in enumerate(itertools.product(*both)):
        chosen = dict(zip((own.name for own in words), combination, strict=True))
        found.append(rows[at % len(rows)] | chosen)
    found += [row for row in rows if row not in found]
    return [row for row in found if party.base or not wants_base(method, row)]


def aside(method: Method[Any]) -> Mapping[str, frozenset[str]]:
    """Returns which laws a method's own test says it gives up when a parameter is not at its default."""
    return {name: frozenset(laws) for name, laws in getattr(_test_of(method), "LAWS_ASIDE", {}).items()}


def _test_of(method: Method[Any]) -> ModuleType:
    return importlib.import_module(f"tests.methods.test_{method.name}")
