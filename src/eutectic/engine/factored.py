"""An adapter that is made as it is read: the merged factors of every module, cut to the rank that was planned.

It is a source, so writing, resuming and verifying it are what they are for a file that is copied.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eutectic.adapters.factors import Factors, Truncated, compress, norm, spectrum, total
from eutectic.checkpoint.ranges import find, first_byte
from eutectic.checkpoint.source import Buffer, Checkpoint, Source
from eutectic.checkpoint.spec import TensorSpec
from eutectic.checkpoint.views import digest_of
from eutectic.engine.bases import Bases, carried_back
from eutectic.engine.parts import factor_site, numbers, read_matrix, read_part
from eutectic.engine.sweep import share
from eutectic.errors import CheckpointError, UndeclaredNeed
from eutectic.numerics.precision import round_to
from eutectic.numerics.tensors import Tensor, one_thread, torch
from eutectic.plan.factored import FactorSite

#: Modules kept after they were made: A and B of one module are read one after the other, by several threads.
_KEPT = 16
#: How many modules ahead a thread looks for work of its own.
_AHEAD = 4


@dataclass(frozen=True)
class Loss:
    """What cutting a module's update to a rank left out: its rank, the update's norm, and the error in that norm."""

    rank: int
    norm: float
    error: float


class Maker:
    """Makes the update of a module, before it is cut.

    Args:
        models: the recipe's models.
        seed: the recipe's.
        double: work on float64.
        merged: where updates (the dense route) or coordinates are merged, by the sites' names.
        bases: the basis of each site's coordinates.
    """

    def __init__(
        self,
        models: Sequence[Checkpoint],
        seed: int,
        double: bool,
        merged: Source | None = None,
        bases: Bases | None = None,
    ) -> None:
        self._models, self._seed, self._double = models, seed, double
        self._merged, self._bases = merged, bases

    def make(self, site: FactorSite) -> Factors | Tensor:
        """Returns the update of a module, (d_out, d_in) as the module's factors have it."""
        if site.weights is not None:
            return total(zip(self._read(site), site.weights, strict=True), site.shape, site.most)
        if self._merged is None:
            return self._method(site)
        if self._bases is None:
            flat = read_matrix(self._merged, site.name).reshape(site.matrix_shape)
            return flat.T.contiguous() if site.transposed else flat
        merged = [read_matrix(self._merged, name) for name in self._bases.shapes(site)]
        return carried_back(self._bases.of(site), merged)

    def _read(self, site: FactorSite) -> Iterator[Factors]:
        return (read_part(self._models, site, at, self._double) for at in range(len(site.feeds)))

    def _method(self, site: FactorSite) -> Factors | Tensor:
        step = site.steps[0]
        made = step.method.on_factors(
            factor_site(site, tuple(self._read(site)), self._seed), **numbers(step.method, step.values)
        )
        found = made if isinstance(made, (torch.Tensor, Factors)) else None
        if found is None or tuple(found.shape) != site.shape:
            raise UndeclaredNeed(f"{site.name}: {step.method.name} returned no update of shape {site.shape}")
        return found


class FactoredSource:
    """The output adapter's two tensors of every module, made on first use.

    Args:
        sites: the modules with their ranks.
        maker: makes their updates.
        parts: what the updates depend on, for digests.
        name: how messages call it.
        saved: tensors that are stored in full, by their names in the output.
    """

    def __init__(
        self,
        sites: Sequence[FactorSite],
        maker: Maker,
        parts: Sequence[Checkpoint],
        name: str,
        saved: Source | None = None,
    ) -> None:
        self._maker, self._parts, self.name, self._saved = maker, parts, name, saved
        self._site: dict[str, FactorSite] = {}
        self.header: dict[str, TensorSpec] = {}
        for site in sites:
            for spec in site.specs:
                self._site[spec.name], self.header[spec.name] = site, spec
        self.header |= saved.header if saved is not None else {}
        self._sites = tuple(sites)
        self._lock = threading.Lock()
        self._place = {site.name: at for at, site in enumerate(sites)}
        self._busy = {site.name: threading.Lock() for site in sites}
        self._kept: OrderedDict[str, Factors] = OrderedDict()
        self._losses: dict[str, Loss] = {}

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with the bytes of elements `start, start + 1, ...` of a factor.

        Raises:
            CheckpointError: when an adapter cannot be read, or holds NaN or infinity.
        """
        spec = find(self.header, name, self.name)
        first = first_byte(spec, start, out.size)
        if name not in self._site:
            assert self._saved is not None  # the header lists it
            self._saved.read_into(name, start, out)
            return
        factors = self._factors(self._site[name])
        values = factors.a if name == self._site[name].specs[0].name else factors.b
        size = spec.dtype.bits // 8
        bad = round_to(values.reshape(-1)[first // size : first // size + out.size // size], spec.dtype.name, out)
        if bad:
            raise CheckpointError(
                f"{name}: {bad} of the merged values do not fit in {spec.dtype}; set output: dtype: float32"
            )

    def _factors(self, site: FactorSite) -> Factors:
        """Returns a module's cut factors; while another thread makes them, this one makes the next module's."""
        if self._busy[site.name].locked():
            self._ahead(site)
        with self._busy[site.name]:
            return self._made(site)

    def _ahead(self, site: FactorSite) -> None:
        at = self._place[site.name] + 1
        for other in self._sites[at : at + _AHEAD]:
            busy = self._busy[other.name]
            if busy.acquire(blocking=False):
                try:
                    self._made(other)
                finally:
                    busy.release()
                return

    def _made(self, site: FactorSite) -> Factors:
        with self._lock:
            if site.name in self._kept:
                return self._kept[site.name]
        cut = fitted(self._maker.make(site), site.rank)
        with self._lock:
            self._losses[site.name] = Loss(site.rank, cut.norm, cut.error)
            self._kept[site.name] = cut.factors
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return cut.factors

    def losses(self) -> dict[str, Loss]:
        """Returns what cutting lost, by module; those that an earlier run made are made again to know."""
        for site in self._sites:
            if site.name not in self._losses:
                self._factors(site)
        return {site.name: self._losses[site.name] for site in self._sites}

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Does nothing: factors are small."""

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to produce a factor once: half of what its module takes."""
        if name not in self._site:
            return 0 if self._saved is None else self._saved.read_cost(name)
        site = self._site[name]
        parts = [self._parts[feed.model].source for feed in site.feeds] or [each.source for each in self._parts]
        return sum(part.read_cost(site.name) for part in parts if site.name in part.header) // 2

    def fingerprint(self) -> str:
        """A digest of what it is made from."""
        return digest_of("factored", *(part.source.fingerprint() for part in self._parts))

    def check_unchanged(self) -> None:
        """Checks that nothing it is made from changed since it was opened.

        Raises:
            CheckpointError: when something did.
        """
        for part in self._parts:
            part.source.check_unchanged()

    def close(self) -> None:
        """Does nothing: what it is made from is closed by whoever opened it."""


def fitted(made: Factors | Tensor, rank: int) -> Truncated:
    """Returns an update with exactly `rank` columns: cut where it has more, filled with zeros where it has fewer.

    Factors that fit are kept as they are; nothing is lost then.
    """
    if isinstance(made, torch.Tensor):
        cut = compress(made, rank)
    elif made.rank > rank:
        cut = spectrum(made).cut(rank)
    else:
        cut = Truncated(made.folded(), 0.0, norm(made))
    missing = rank - cut.factors.rank
    if not missing:
        return cut
    b, a = cut.factors.b, cut.factors.a
    filled = Factors(
        torch.cat([b, b.new_zeros(b.shape[0], missing)], 1), torch.cat([a, a.new_zeros(missing, a.shape[1])], 0)
    )
    return replace(cut, factors=filled)


def ranks_for(
    sites: Sequence[FactorSite], maker: Maker, error: float, most: int | None, threads: int
) -> list[FactorSite]:
    """Gives every site the least rank that loses at most a share of its update's norm; one pass over all updates."""
    found: dict[str, int] = {}

    def measure(_: None, site: FactorSite) -> None:
        made = maker.make(site)
        cut = compress(made, most, error) if isinstance(made, torch.Tensor) else spectrum(made)
        if isinstance(cut, Truncated):
            found[site.name] = cut.factors.rank
        else:
            found[site.name] = min(cut.rank_for(error), most or len(cut.s))

    torch.empty(0)  # loaded before the threads start
    with one_thread():
        share(iter(sites), [None] * threads, measure)
    return [replace(site, rank=found[site.name]) for site in sites]


def summary(losses: Mapping[str, Loss]) -> dict[str, Any]:
    """Returns what a receipt says of cutting: relative errors by tensor, and of all updates together."""
    norms = math.sqrt(math.fsum(loss.norm**2 for loss in losses.values()))
    errors = math.sqrt(math.fsum(loss.error**2 for loss in losses.values()))
    each = {
        name: {"rank": loss.rank, "relative_error": loss.error / loss.norm if loss.norm else 0.0}
        for name, loss in losses.items()
    }
    return {"relative_error": errors / norms if norms else 0.0, "norm": norms, "tensors": each}


__all__ = ["FactoredSource", "Loss", "Maker", "ranks_for", "summary"]
