"""Stored factors: read as they are for the algebra, or read once and kept for the elements of their product."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eutectic.adapters.factors import Factors
from eutectic.checkpoint.ranges import find
from eutectic.checkpoint.source import Buffer, Source
from eutectic.checkpoint.spec import DType
from eutectic.errors import CheckpointError
from eutectic.numerics.lowrank import lowrank_into
from eutectic.numerics.tensors import torch

Floats = NDArray[np.float32]
Wide = NDArray[np.floating]


@dataclass(frozen=True)
class Pair:
    """Where a module's factors are stored, and how they become its update.

    Attributes:
        a: key of A, (r, d_in, ...).
        b: key of B, (d_out, r, ...).
        scale: the factor on the product.
        transposed: the update is (B A) transposed, as for embeddings and weights stored (in, out).
        experts: of a stacked parameter (experts, ...), how many updates there are: A is (experts r, d_in), expert by
            expert; B is (d_out, r experts), the experts' columns in turn.
    """

    a: str
    b: str
    scale: float
    transposed: bool
    experts: int = 1


@dataclass(frozen=True, eq=False)
class Product:
    """An update in factored form: `scale * (b @ a)`, in the orientation of the base's tensor.

    Attributes:
        b: (rows, r), C-contiguous float32.
        a: (r, columns), C-contiguous float32; columns are all axes of the tensor but the first.
        scale: the factor on the product.
    """

    b: Floats
    a: Floats
    scale: float

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.a.nbytes + self.b.nbytes

    def into(self, start: int, out: Floats) -> None:
        """Fills `out` with elements `start, start + 1, ...` of the flattened update; see `lowrank_into`."""
        lowrank_into(self.b, self.a, self.scale, start, out)


@dataclass(frozen=True, eq=False)
class Stack:
    """Updates of one shape, one an expert, flattened one after another."""

    products: tuple[Product, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(product.nbytes for product in self.products)

    def into(self, start: int, out: Floats) -> None:
        """Fills `out` with elements `start, start + 1, ...` of the flattened stack."""
        size = self.products[0].b.shape[0] * self.products[0].a.shape[1]
        done = 0
        while done < out.size:
            expert, at = divmod(start + done, size)
            count = min(out.size - done, size - at)
            self.products[expert].into(at, out[done : done + count])
            done += count


def widened(raw: Buffer, dtype: DType) -> Wide:
    """Returns stored values as float32, exactly; float64 stays float64.

    Args:
        raw: whole elements of a float type, little-endian.
        dtype: their type.

    Raises:
        ValueError: when the type is not a float.
    """
    if dtype.name == "BF16":
        return (raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype.name == "F16":
        return raw.view("<f2").astype(np.float32)
    if dtype.name not in ("F32", "F64"):
        raise ValueError(f"{dtype} has no exact float32 values")
    return raw.view("<f4" if dtype.name == "F32" else "<f8")


def read_wide(source: Source, name: str, start: int, count: int) -> Wide:
    """Reads elements `start..start + count` of a float tensor, widened as `widened` does."""
    dtype = find(source.header, name, source.name).dtype
    raw = np.empty(count * dtype.bits // 8, np.uint8)
    source.read_into(name, start, raw)
    return widened(raw, dtype)


def read_small(source: Source, name: str) -> Floats:
    """Reads a whole tensor of an adapter as float32, in its stored shape.

    Raises:
        CheckpointError: when it holds NaN or infinity, which would spread over every element it is multiplied into.
    """
    return read_finite(source, name).astype(np.float32, copy=False)


def read_factors(source: Source, pair: Pair, double: bool = False) -> Factors:
    """Reads a module's factors as the adapter stores them, flattened to matrices: float32, or float64 if `double`.

    Raises:
        CheckpointError: when they cannot be read, or hold NaN or infinity.
    """
    kind = np.float64 if double else np.float32
    a, b = (read_finite(source, key).astype(kind, copy=False) for key in (pair.a, pair.b))
    a, b = a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)
    return Factors(torch.from_numpy(b), torch.from_numpy(a), pair.scale)


def read_experts(source: Source, pair: Pair, double: bool = False) -> list[Factors]:
    """Reads the factors of a stacked parameter, one update an expert; of any other pair the only one."""
    whole = read_factors(source, pair, double)
    if pair.experts == 1:
        return [whole]
    a = whole.a.reshape(pair.experts, -1, whole.a.shape[1])  # (experts, r, d_in)
    b = whole.b.reshape(whole.b.shape[0], -1, pair.experts)  # (d_out, r, experts)
    return [Factors(b[:, :, at], a[at], pair.scale) for at in range(pair.experts)]


def read_finite(source: Source, name: str) -> Wide:
    """Reads a whole tensor in its stored shape: float32, or float64 where it is.

    Raises:
        CheckpointError: when it holds NaN or infinity, which would spread over every element it is multiplied into.
    """
    spec = find(source.header, name, source.name)
    values = read_wide(source, name, 0, spec.numel)
    if not np.isfinite(values).all():
        where = int(np.flatnonzero(~np.isfinite(values))[0])
        raise CheckpointError(
            f"{source.name}: tensor '{name}' holds {values[where]} at element {where}; export the adapter again"
        )
    return values.reshape(spec.shape)


class FactorStore:
    """Reads factors on first use and keeps the latest ones, in bounded memory; safe from many threads.

    Args:
        source: the adapter's file.
        limit: bytes to keep; one module's factors are kept whatever their size.
    """

    def __init__(self, source: Source, limit: int = 16 * 2**20) -> None:
        self._source = source
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[Pair, Product | Stack] = OrderedDict()

    def get(self, pair: Pair) -> Product | Stack:
        """Returns a module's factors.

        Raises:
            CheckpointError: when they cannot be read, or hold NaN or infinity.
        """
        with self._lock:
            factors = self._kept.get(pair)
            if factors is None:
                factors = self._kept[pair] = self._read(pair)
            self._kept.move_to_end(pair)
            while len(self._kept) > 1 and sum(f.nbytes for f in self._kept.values()) > self._limit:
                self._kept.popitem(last=False)
            return factors

    def _read(self, pair: Pair) -> Product | Stack:
        products = []
        for factors in read_experts(self._source, pair):
            a, b = factors.a.numpy(), factors.b.numpy()
            if pair.transposed:
                a, b = b.T, a.T
            products.append(Product(np.ascontiguousarray(b), np.ascontiguousarray(a), pair.scale))
        return products[0] if len(products) == 1 else Stack(tuple(products))
