"""Coordinates of updates in a basis they share: each adapter's as a source, so that any chain can merge them."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from eutectic.adapters.factors import Factors
from eutectic.checkpoint.ranges import find, first_byte
from eutectic.checkpoint.source import Buffer, Checkpoint
from eutectic.checkpoint.spec import DTYPES, TensorSpec
from eutectic.checkpoint.views import digest_of
from eutectic.engine.parts import factor_site, numbers, read_part
from eutectic.errors import UndeclaredNeed
from eutectic.methods.site import Coordinates
from eutectic.numerics.tensors import Tensor, torch
from eutectic.plan.factored import FactorSite

#: Sites whose coordinates are kept: all models' rows of one are read one after the other, by each thread.
_KEPT = 4


class Bases:
    """The shared basis of every site, and all models' coordinates in it, computed on first use and kept for a while.

    Args:
        sites: the sites, whose first step is a transform that gives coordinates.
        models: the recipe's models.
        seed: the recipe's.
        double: coordinates are float64 instead of float32.
    """

    def __init__(self, sites: Sequence[FactorSite], models: Sequence[Checkpoint], seed: int, double: bool) -> None:
        self.sites = {site.name: site for site in sites}
        self.models, self.double = models, double
        self._seed = seed
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Coordinates] = OrderedDict()

    def of(self, site: FactorSite) -> Coordinates:
        """Returns the coordinates of a site's updates, (n, k, m) for the adapters that have it, and their basis."""
        with self._lock:  # one at a time: the threads want the same site, one after another
            if site.name not in self._kept:
                self._kept[site.name] = self._make(site)
            self._kept.move_to_end(site.name)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return self._kept[site.name]

    def shapes(self, site: FactorSite) -> dict[str, tuple[int, int]]:
        """Returns the shapes of one model's coordinates, which follow from ranks and shapes, by the tensors' names.

        There is one, (k, m) by the site's own name; where rights are merged too, (k, m) and (m, d_in) by PEFT's names.
        """
        step = site.steps[0]
        sides = step.method.needs_for(dict(step.values)).basis
        out, columns = site.shape
        if sides == "factors":
            stem, rank = site.name.removesuffix(".weight"), max(feed.rank for feed in site.feeds)
            return {f"{stem}.lora_B.weight": (out, rank), f"{stem}.lora_A.weight": (rank, columns)}
        k = out if sides == "none" else min(out, site.ranks)
        return {site.name: (k, min(columns, site.ranks) if sides == "both" else columns)}

    def _make(self, site: FactorSite) -> Coordinates:
        step = site.steps[0]
        updates = tuple(read_part(self.models, site, at, self.double) for at in range(len(site.feeds)))
        made = step.method.on_factors(factor_site(site, updates, self._seed), **numbers(step.method, step.values))
        expected = [(len(updates), *shape) for shape in self.shapes(site).values()]
        if not isinstance(made, Coordinates) or [tuple(each.shape) for each in parts(made)] != expected:
            raise UndeclaredNeed(f"{site.name}: {step.method.name} returned no coordinates of shapes {expected}")
        return made


def parts(made: Coordinates) -> list[Tensor]:
    """Returns what of coordinates is merged: (n, k, m), and (n, m, d_in) where every model has its own rows."""
    return [made.values] if made.rights is None else [made.values, made.rights]


def carried_back(basis: Coordinates, merged: Sequence[Tensor]) -> Factors | Tensor:
    """Returns the update whose merged coordinates are (k, m) and, where rights are merged too, (m, d_in).

    It is factored where one side of the basis is there.
    """
    first, *rest = merged
    left = None if basis.left is None else basis.left.to(first.dtype)
    right = rest[0] if rest else None if basis.right is None else basis.right.to(first.dtype)
    if left is None:
        return first * basis.scale if right is None else Factors(first, right, basis.scale)
    return Factors(left, first if right is None else first @ right, basis.scale)


class CoordinateSource:
    """One adapter's coordinates, by the names of its tensors: a source of deltas.

    Args:
        bases: the shared bases.
        number: the adapter's place in the recipe.
    """

    def __init__(self, bases: Bases, number: int) -> None:
        self._bases, self._number = bases, number
        dtype = DTYPES["F64" if bases.double else "F32"]
        self._at: dict[str, tuple[FactorSite, int, int]] = {}  # site, its feed, which part of the coordinates
        self.header: dict[str, TensorSpec] = {}
        for site in bases.sites.values():
            for at, feed in enumerate(site.feeds):
                if feed.model == number:
                    for part, (name, shape) in enumerate(bases.shapes(site).items()):
                        self._at[name], self.header[name] = (site, at, part), TensorSpec(name, shape, dtype)

    @property
    def name(self) -> str:
        """The adapter's."""
        return self._bases.models[self._number].source.name

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with the bytes of elements `start, start + 1, ...` of the coordinates of update `name`.

        Raises:
            CheckpointError: when an adapter cannot be read.
        """
        spec = find(self.header, name, self.name)
        first = first_byte(spec, start, out.size)
        site, at, part = self._at[name]
        values = parts(self._bases.of(site))[part][at]
        kind = torch.float64 if self._bases.double else torch.float32
        raw = values.to(kind).contiguous().numpy().reshape(-1).view(np.uint8)
        out[:] = raw[first : first + out.size]

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Does nothing: factors are small."""

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to produce the coordinates once: the adapter's own factors."""
        return self._bases.models[self._number].source.read_cost(self._at[name][0].name)

    def fingerprint(self) -> str:
        """A digest of all adapters, since their basis is shared."""
        return digest_of("coordinates", *(model.source.fingerprint() for model in self._bases.models))

    def check_unchanged(self) -> None:
        """Checks that the adapter did not change since it was opened.

        Raises:
            CheckpointError: when it did.
        """
        self._bases.models[self._number].source.check_unchanged()

    def close(self) -> None:
        """Does nothing: the adapters are closed by whoever opened them."""
