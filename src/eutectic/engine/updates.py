"""The merged updates of adapters as dense differences, any range of them, made from merged factors as they are read."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eutectic.adapters.factors import Factors
from eutectic.adapters.stored import Product
from eutectic.checkpoint.ranges import find, first_byte
from eutectic.checkpoint.source import Buffer, Checkpoint
from eutectic.checkpoint.spec import DTYPES, TensorSpec
from eutectic.checkpoint.views import digest_of
from eutectic.engine.factored import Maker, fitted
from eutectic.numerics.tensors import torch
from eutectic.plan.factored import FactorSite

#: Modules kept after they were made: slices of one are read one after the other, by several threads.
_KEPT = 2


class UpdateSource:
    """A source of deltas: what merged adapters change, by the names of the base's tensors; float32.

    Args:
        sites: the modules; one with a rank is cut to it first.
        maker: makes their updates.
        parts: the adapters, for digests.
        name: how messages call it.
        said: whatever else decides the updates, for digests: the recipe.
    """

    def __init__(
        self, sites: Sequence[FactorSite], maker: Maker, parts: Sequence[Checkpoint], name: str, said: str
    ) -> None:
        self._maker, self._parts, self.name, self._said = maker, parts, name, said
        self._sites = {site.name: site for site in sites}
        self.header = {site.name: TensorSpec(site.name, site.dense_shape, DTYPES["F32"]) for site in sites}
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Product | NDArray[np.float32]] = OrderedDict()

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with the bytes of elements `start, start + 1, ...` of an update.

        Raises:
            CheckpointError: when an adapter cannot be read, or holds NaN or infinity.
        """
        spec = find(self.header, name, self.name)
        first_byte(spec, start, out.size)
        made = self._made(self._sites[name])
        count = out.size // 4
        if isinstance(made, Product):
            values = np.empty(count, np.float32)
            made.into(start, values)
        else:
            values = made[start : start + count]
        out[:] = values.view(np.uint8)

    def _made(self, site: FactorSite) -> "Product | NDArray[np.float32]":
        with self._lock:  # one at a time: the threads want slices of the same tensor
            if site.name not in self._kept:
                self._kept[site.name] = self._make(site)
            self._kept.move_to_end(site.name)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return self._kept[site.name]

    def _make(self, site: FactorSite) -> "Product | NDArray[np.float32]":
        made = self._maker.make(site)
        if site.rank:
            made = fitted(made, site.rank).factors
        if not isinstance(made, Factors):
            dense = (made.T if site.transposed else made).to(torch.float32).contiguous()
            values: NDArray[np.float32] = dense.numpy().reshape(-1)
            return values
        whole = made.folded()
        b, a = (whole.a.T, whole.b.T) if site.transposed else (whole.b, whole.a)
        return Product(b.to(torch.float32).contiguous().numpy(), a.to(torch.float32).contiguous().numpy(), 1.0)

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Does nothing: factors are small."""

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to produce an update once: the factors of all adapters that have it."""
        site = self._sites[name]
        return sum(self._parts[feed.model].source.read_cost(name) for feed in site.feeds)

    def fingerprint(self) -> str:
        """A digest of the adapters and of how they are merged."""
        return digest_of("updates", self._said, *(part.source.fingerprint() for part in self._parts))

    def check_unchanged(self) -> None:
        """Checks that no adapter changed since it was opened.

        Raises:
            CheckpointError: when one did.
        """
        for part in self._parts:
            part.source.check_unchanged()

    def close(self) -> None:
        """Closes the adapters."""
        for part in self._parts:
            part.source.close()
