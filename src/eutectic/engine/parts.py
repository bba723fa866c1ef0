"""What methods on factors are given: stored factors, numbers of the recipe, whole matrices."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eutectic.adapters.factors import Factors
from eutectic.adapters.sources import DeltaSource
from eutectic.adapters.stored import read_factors
from eutectic.checkpoint.ranges import find
from eutectic.checkpoint.source import Checkpoint, Source
from eutectic.methods.declare import Method
from eutectic.methods.site import Site
from eutectic.numerics.draw import Key
from eutectic.numerics.tensors import Tensor, torch
from eutectic.plan.factored import FactorSite


def read_part(models: Sequence[Checkpoint], site: FactorSite, at: int, double: bool) -> Factors:
    """Reads the stored factors of one adapter at a site."""
    feed = site.feeds[at]
    source = models[feed.model].source
    assert isinstance(source, DeltaSource)  # the plan's routes say so
    return read_factors(source.adapter.file, feed.pair, double)


def read_matrix(source: Source, name: str) -> Tensor:
    """Reads a whole float tensor, float32 or float64 as it is stored."""
    spec = find(source.header, name, source.name)
    raw = np.empty(spec.nbytes, np.uint8)
    source.read_into(name, 0, raw)
    return torch.from_numpy(raw.view(np.float64 if spec.dtype.name == "F64" else np.float32)).reshape(spec.shape)


def factor_site(site: FactorSite, updates: tuple[Factors, ...], seed: int) -> Site:
    """Returns a site as a method on factors sees it."""
    return Site(site.name, len(updates), Key(seed, site.name), {}, updates=updates)


def numbers(method: Method[Any], values: Mapping[str, object]) -> dict[str, Any]:
    """Returns hyperparameters as a method on factors takes them: per-model ones as (n,), float64."""
    per_model = {own.name for own in method.parameters if own.bounds.per_model}
    return {
        name: torch.tensor(value, dtype=torch.float64) if name in per_model else value for name, value in values.items()
    }
