"""Sites and chains over tensors in memory, for tests of the engine's parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import eutectic
from eutectic.checkpoint.source import Buffer
from eutectic.engine.chain import Chain
from eutectic.engine.run import chains_of
from eutectic.plan.steps import Merged, Plan
from tests.make.checkpoints import write_model

Tensors = Mapping[str, torch.Tensor]


def planned(root: Path, base: Tensors | None, models: Sequence[Tensors], method: Any, **more: Any) -> Plan:
    """Writes models and plans a merge of them on two threads."""
    paths = [str(write_model(root / f"m{number}", own, {})) for number, own in enumerate(models)]
    under = str(write_model(root / "base", base, {})) if base is not None else None
    return eutectic.plan(eutectic.merge(paths, base=under, method=method, **more), threads=2)


def chain(plan: Plan, name: str = "a.weight") -> Chain:
    """Returns the chain of one tensor."""
    return next(each for each in chains_of(plan) if each.part.name == name)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Returns random numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def as_float(data: Buffer, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Returns bytes as a flat tensor."""
    return torch.frombuffer(bytearray(data.tobytes()), dtype=dtype) if len(data) else torch.empty(0, dtype=dtype)


@dataclass
class Collected:
    """A sink that keeps what it is given.

    Attributes:
        done: element ranges that are not asked for again, by tensor.
        known: results of statistics from before.
    """

    done: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    known: dict[str, Any] = field(default_factory=dict)
    written: dict[str, dict[tuple[int, int], bytes]] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    bad: int = 0
    read: int = 0

    def missing(self, name: str, numel: int) -> Any:
        at = 0
        for start, stop in sorted(self.done.get(name, [])):
            if start > at:
                yield at, start
            at = max(at, stop)
        if at < numel or numel == 0:
            yield at, numel

    def phase(self, site: Merged, start: int) -> int:
        return 0

    def write(self, site: Merged, start: int, stop: int, data: Buffer, bad: int, extras: Sequence[Buffer]) -> None:
        self.written.setdefault(site.spec.name, {})[start, stop] = data.tobytes()
        self.bad += bad

    def result(self, key: str) -> Any:
        return self.known.get(key)

    def found(self, key: str, value: Any) -> None:
        self.results[key] = value

    def progress(self, nbytes: int, doing: str) -> None:
        self.read += nbytes

    def whole(self, name: str) -> bytes:
        """Returns a tensor's bytes, its ranges put together; they must neither overlap nor leave gaps."""
        at, data = 0, b""
        for (start, stop), part in sorted(self.written[name].items()):
            assert start == at
            at, data = stop, data + part
        return data


def array(values: bytes, dtype: str = "f4") -> Any:
    """Returns bytes as a numpy array."""
    return np.frombuffer(values, dtype)
