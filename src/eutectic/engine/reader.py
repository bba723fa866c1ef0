"""One worker's memory: an arena for the rows of a slice, and buffers that are reused from slice to slice."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from eutectic.checkpoint.source import Buffer, Checkpoint
from eutectic.checkpoint.spec import TensorSpec
from eutectic.checkpoint.writer import PAGE
from eutectic.engine.chain import Chain
from eutectic.numerics.draw import Key
from eutectic.numerics.kernels import CODES, ITEMSIZE, Rows
from eutectic.plan.memory import ALIGN, arena_bytes, extras_bytes
from eutectic.plan.steps import Feed, Merged


class Worker:
    """Buffers of one thread. Fresh memory for each slice would cost more than the arithmetic."""

    def __init__(self, inputs: Sequence[Checkpoint]) -> None:
        self._inputs = inputs
        self._arena = np.empty(0, np.uint8)
        self._out = np.empty(0, np.uint8)
        self._extras = np.empty(0, np.uint8)

    def out(self, nbytes: int, phase: int = 0) -> Buffer:
        """Returns a buffer of that size whose address lies `phase` bytes into a page; the last one is lost."""
        if len(self._out) < nbytes + PAGE:
            self._out = np.empty(nbytes + PAGE, np.uint8)
        lead = (phase - self._out.ctypes.data) % PAGE
        return self._out[lead : lead + nbytes]

    def extras(self, site: Merged, start: int, count: int) -> list[Buffer]:
        """Returns a buffer for each extra of a slice, for all models; the last ones are lost."""
        sizes = extras_bytes(site, start, count)
        if len(self._extras) < sum(sizes):
            self._extras = np.empty(sum(sizes), np.uint8)
        ends = np.cumsum([0, *sizes]).tolist()
        return [self._extras[first:last] for first, last in pairwise(ends)]

    def load(self, chain: Chain, start: int, stop: int) -> Rows:
        """Reads elements start..stop of every row of a site; the last slice read is lost.

        Where the chain ranks within the tensor's rows, the rest of the first and the last of these is read too.
        """
        site, numel = chain.site, chain.part.numel
        lead = start % site.width
        tail = min(numel - stop, -stop % site.width)
        whole = self._load(chain, start - lead, stop + tail)
        return whole.part(lead, lead + stop - start)

    def _load(self, chain: Chain, start: int, stop: int) -> Rows:
        site, count = chain.site, stop - start
        needed = arena_bytes(site, count)
        if len(self._arena) < needed:
            self._arena = np.empty(0, np.uint8)  # freed before the larger one is taken
            self._arena = np.empty(needed, np.uint8)
        offsets, codes, at = [], [], 0
        for feed in site.feeds:
            code = CODES[feed.dtype.name]
            size = count * ITEMSIZE[code]
            self._read(site, feed, start, self._arena[at : at + size])
            offsets.append(at)
            codes.append(code)
            at += -(-size // ALIGN) * ALIGN
        deltas = np.array([feed.delta for feed in site.models], np.bool_)
        return Rows(
            self._arena,
            np.array(offsets, np.int64),
            np.array(codes, np.int64),
            deltas,
            site.base is not None,
            start,
            count,
            chain.key,
            chain.double,
            width=site.width,
        )

    def _read(self, site: Merged, feed: Feed, start: int, out: Buffer) -> None:
        """Fills one row; elements the model does not have come from the base, or are a delta of zero."""
        itemsize = feed.dtype.bits // 8
        own = 0 if feed.zero else max(0, min(len(out) // itemsize, feed.numel - start)) * itemsize
        if own:
            self._inputs[feed.source].source.read_into(feed.name, start, out[:own])
        if own < len(out):
            if feed.delta or site.base is None:
                out[own:] = 0
            else:
                self._inputs[site.base.source].source.read_into(site.base.name, start + own // itemsize, out[own:])

    def will_need(self, site: Merged, start: int, stop: int) -> None:
        """Tells the system which bytes are read soon, so that the disk works while this thread computes."""
        for feed in site.feeds:
            if not feed.zero and start < feed.numel:
                self._inputs[feed.source].source.will_need(feed.name, start, min(stop, feed.numel))


def read_rows(tensors: Sequence[tuple[Checkpoint, TensorSpec]], start: int, stop: int) -> Rows:
    """Reads elements start..stop of tensors of equal shape into rows of their own; the first is the base."""
    count, parts, offsets, codes = stop - start, [], [], []
    at = 0
    for checkpoint, spec in tensors:
        code = CODES[spec.dtype.name]
        row = np.zeros(-(-count * ITEMSIZE[code] // ALIGN) * ALIGN, np.uint8)
        checkpoint.source.read_into(spec.name, start, row[: count * ITEMSIZE[code]])
        parts.append(row)
        offsets.append(at)
        codes.append(code)
        at += len(row)
    double = 0 in codes
    models = np.zeros(len(tensors) - 1, np.bool_)
    raw = np.concatenate(parts) if parts else np.empty(0, np.uint8)
    place = np.array(offsets, np.int64), np.array(codes, np.int64), models
    return Rows(raw, *place, True, start, count, Key(0, tensors[0][1].name), double)
