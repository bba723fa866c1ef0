"""Chains of methods on tensors in memory, run by the engine as a plan would run them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from eutectic.checkpoint.source import Buffer
from eutectic.checkpoint.spec import DTYPES, TensorSpec
from eutectic.engine.chain import Chain
from eutectic.engine.execute import Executor
from eutectic.engine.reader import Worker
from eutectic.methods import get
from eutectic.methods.extras import BIT
from eutectic.numerics.kernels import GRAIN
from eutectic.plan.memory import extras_bytes
from eutectic.plan.steps import Feed, Merged, Schedule
from eutectic.recipe.resolve import ResolvedStep

from .measured import MadeUp
from .memory import NAMES, checkpoint, from_bytes

Step = tuple[str, Mapping[str, Any]]
Named = Mapping[str, torch.Tensor]


def resolve(step: Step, n: int) -> ResolvedStep:
    """Returns a step with defaults filled in and one number per model where a parameter takes one."""
    method = get(step[0])
    values: dict[str, Any] = {}
    for own in method.parameters:
        value = step[1].get(own.name, own.default)
        assert not own.required or own.name in step[1], f"{method.name} needs {own.name}"
        values[own.name] = (value,) * n if own.bounds.per_model and not isinstance(value, tuple) else value
    assert set(step[1]) <= set(values), f"{method.name} has no {set(step[1]) - set(values)}"
    return ResolvedStep(method, values, {})


class Collected:
    """A sink that keeps what is merged."""

    def __init__(self, sites: Sequence[Merged]) -> None:
        specs = [site.spec for site in sites]
        self._bytes = {spec.name: np.zeros(spec.nbytes, np.uint8) for spec in specs}
        self._specs = {spec.name: spec for spec in specs}
        self._sites = {site.spec.name: site for site in sites}
        self._extras = {
            site.spec.name: [np.zeros((len(site.models), size), np.uint8) for size in _extra_sizes(site)]
            for site in sites
        }
        self._results: dict[str, Any] = {}
        self.bad: dict[str, int] = dict.fromkeys(self._specs, 0)

    def missing(self, name: str, numel: int) -> Iterator[tuple[int, int]]:
        """Yields the whole tensor."""
        yield 0, numel

    def phase(self, site: Merged, start: int) -> int:
        return 0

    def write(self, site: Merged, start: int, stop: int, data: Buffer, bad: int, extras: Sequence[Buffer]) -> None:
        """Keeps a slice."""
        width = site.spec.dtype.bits // 8
        self._bytes[site.spec.name][start * width : stop * width] = data
        self.bad[site.spec.name] += bad
        for extra, kept, made in zip(site.extras, self._extras[site.spec.name], extras, strict=True):
            part = made.reshape(len(site.models), -1) if made.size else made.reshape(len(site.models), 0)
            first = extra.first_byte(start)
            kept[:, first : first + part.shape[1]] = part

    def result(self, key: str) -> Any:
        """Returns a stored result."""
        return self._results.get(key)

    def found(self, key: str, value: Any) -> None:
        """Stores a result."""
        self._results[key] = value

    def progress(self, nbytes: int, doing: str) -> None:
        """Hears that bytes were read."""

    def extras(self, name: str) -> dict[str, torch.Tensor]:
        """Returns the extras of a tensor by name, one row a model; bits as zeros and ones in the tensor's shape."""
        site = self._sites[name]
        found = {}
        for extra, kept in zip(site.extras, self._extras[name], strict=True):
            if extra.dtype == BIT:
                bits = np.unpackbits(kept, axis=1, bitorder="little")[:, : site.spec.numel]
                found[extra.name] = torch.from_numpy(bits.copy()).reshape(len(kept), *site.spec.shape)
            else:
                shape = extra.stored(site.spec.shape, len(kept))
                assert shape is not None
                found[extra.name] = from_bytes(kept.reshape(-1), extra.dtype, (len(kept), *shape))
        return found

    def tensor(self, name: str) -> torch.Tensor:
        """Returns a merged tensor."""
        spec = self._specs[name]
        return from_bytes(self._bytes[name], spec.dtype.name, spec.shape)


@dataclass
class Job:
    """Models, an optional base, and the chain that merges them, tensor by tensor.

    Attributes:
        steps: transforms, then one combine.
        models: a tensor each, or tensors by name.
        base: the same for the base.
        out: the output's stored type; the base's (else the first model's) if None.
        deltas: which models are differences from the base.
        fused: through the kernels, through torch, or (None) as a plan would.
        double: compute in float64.
        data: the seed of each model's made-up calibration data.
    """

    steps: Sequence[Step]
    models: Sequence[torch.Tensor | Named]
    base: torch.Tensor | Named | None = None
    out: str | None = None
    deltas: Sequence[bool] | None = None
    fused: bool | None = None
    double: bool = False
    seed: int = 0
    slice_elements: int = 8 * GRAIN
    resident_bytes: int = 1 << 30
    threads: int = 1
    data: Sequence[int] | None = None
    lanes: int = 1
    chains: list[Chain] = field(init=False)

    def __post_init__(self) -> None:
        models = [_named(model) for model in self.models]
        base = None if self.base is None else _named(self.base)
        self.inputs = [checkpoint(each) for each in ([base] if base else []) + models]
        self.chains = [self._chain(name, models, base) for name in models[0]]

    def _chain(self, name: str, models: Sequence[Named], base: Named | None) -> Chain:
        first = models[0][name] if base is None else base[name]
        lead = 0 if base is None else 1
        deltas = self.deltas or [False] * len(models)
        feeds = [
            Feed(lead + at, name, DTYPES[NAMES[model[name].dtype]], model[name].numel(), deltas[at])
            for at, model in enumerate(models)
        ]
        anchor = None if base is None else Feed(0, name, DTYPES[NAMES[first.dtype]], first.numel())
        spec = TensorSpec(name, tuple(first.shape), DTYPES[self.out or NAMES[first.dtype]])
        steps = tuple(resolve(step, len(models)) for step in self.steps)
        made_up: Any = MadeUp(self.data or range(len(models)), lead)
        chain = Chain(Merged(spec, steps, anchor, tuple(feeds)), self.seed, self.double, measured=made_up)
        if self.fused is not None:
            assert chain.fused or not self.fused, "the kernels cannot express this chain"
            chain.fused = self.fused
        return chain

    def run(self) -> Collected:
        """Merges every tensor."""
        sink = Collected([chain.site for chain in self.chains])
        self._executor(sink).run(self.chains)
        return sink

    def settle(self) -> "Job":
        """Computes every statistic and merges nothing."""
        executor = self._executor(Collected([chain.site for chain in self.chains]))
        executor.settle(self.chains)
        for chain in self.chains:
            executor.settle_own(chain)
        return self

    def extras(self, start: int, stop: int) -> list[Buffer]:
        """Returns the extras of elements start..stop of the one settled tensor, as the engine would write them."""
        chain = self.chains[0]
        worker = Worker(self.inputs)
        made = worker.extras(chain.site, start, stop - start)
        raw = np.zeros((stop - start) * chain.site.spec.dtype.bits // 8, np.uint8)
        chain.combine(worker.load(chain, start, stop), raw, chain.site.spec.dtype.name, made)
        return [buffer.copy() for buffer in made]

    def map(self, start: int = 0, stop: int | None = None, name: str | None = None) -> torch.Tensor:
        """Merges elements start..stop of one settled tensor, in the shape of the whole when they are all of it."""
        return self.map_counted(start, stop, name)[0]

    def map_counted(self, start: int = 0, stop: int | None = None, name: str | None = None) -> tuple[torch.Tensor, int]:
        """Merges elements start..stop of one settled tensor; returns how many are not finite beside them."""
        chain = next(chain for chain in self.chains if name in {None, chain.part.name})
        spec = chain.site.spec
        stop = spec.numel if stop is None else stop
        raw = np.zeros((stop - start) * spec.dtype.bits // 8, np.uint8)
        bad = chain.combine(Worker(self.inputs).load(chain, start, stop), raw, spec.dtype.name)
        shape = spec.shape if stop - start == spec.numel else (stop - start,)
        return from_bytes(raw, spec.dtype.name, shape), bad

    def _executor(self, sink: Collected) -> Executor:
        schedule = Schedule(
            self.threads, self.slice_elements, self.resident_bytes, self.threads, self.lanes, self.lanes
        )
        return Executor(self.inputs, schedule, sink)


def _extra_sizes(site: Merged) -> list[int]:
    n = len(site.models)
    return [size // n for size in extras_bytes(site, 0, site.spec.numel)]


def _named(tensors: torch.Tensor | Named) -> Named:
    return {"w": tensors} if isinstance(tensors, torch.Tensor) else tensors


def merge(
    steps: Sequence[Step] | Step, models: Sequence[torch.Tensor], base: torch.Tensor | None = None, **how: Any
) -> torch.Tensor:
    """Merges one tensor and returns it; `how` are the further fields of `Job`."""
    chain = [steps] if isinstance(steps[0], str) else steps
    return Job(chain, models, base, **how).run().tensor("w")  # type: ignore[arg-type]


def table(*rows: Sequence[float], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Returns a matrix written row by row."""
    return torch.tensor([list(row) for row in rows], dtype=dtype)
