import numpy as np
import pytest
import torch

from eutectic.checkpoint.difference import Difference, Sum, Zeros
from eutectic.checkpoint.source import Source
from eutectic.errors import MismatchError
from tests.make.memory import MemorySource, describe, from_bytes


def read(source: Source, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
    """Reads elements of a tensor, flat."""
    spec = source.header[name]
    count = (spec.numel if stop is None else stop) - start
    raw = np.empty(count * spec.dtype.bits // 8, np.uint8)
    source.read_into(name, start, raw)
    return from_bytes(raw, spec.dtype.name, (count,))


def models(kind: torch.dtype = torch.bfloat16) -> tuple[MemorySource, MemorySource]:
    """Returns a model and its base, larger than what is subtracted at once."""
    source = torch.Generator().manual_seed(0)
    base = torch.randn(300, 300, generator=source).to(kind)
    model = (base.double() + torch.randn(300, 300, generator=source).double() / 100).to(kind)
    return MemorySource({"w": model}), MemorySource({"w": base, "more": base[0]})


def test_a_difference_is_exact_in_float32() -> None:
    """Any range of it; what only the base has is not shown."""
    model, base = models()
    found = Difference(model, base)
    expected = read(model, "w").float() - read(base, "w").float()
    assert list(found.header) == ["w"]
    assert torch.equal(read(found, "w"), expected)
    assert torch.equal(read(found, "w", 70_000, 71_111), expected[70_000:71_111])
    assert found.read_cost("w") == 2 * 300 * 300 * 2
    assert found.fingerprint() != Difference(base, base).fingerprint()


def test_doubles_stay_doubles() -> None:
    """One float64 side is enough."""
    model, base = models(torch.float64)
    found = Difference(model, base)
    assert found.header["w"].dtype.name == "F64"
    assert torch.equal(read(found, "w"), read(model, "w") - read(base, "w"))


def test_what_the_base_lacks_is_refused() -> None:
    """Names and shapes must be the base's."""
    model, base = models()
    with pytest.raises(MismatchError, match="'w' has shape"):
        Difference(model, MemorySource({"other": torch.zeros(2)}))
    with pytest.raises(MismatchError, match="found shape"):
        Difference(model, MemorySource({"w": torch.zeros(3, 2)}))
    assert base.header


def test_base_and_difference_add_up_to_the_model() -> None:
    """Rounded once to the base's type: the model's own bytes come back."""
    model, base = models()
    found = Sum(base, Difference(model, base), {"shown": "w"})
    assert found.header["shown"].dtype.name == "BF16"
    assert torch.equal(read(found, "shown", 5, 80_000), read(model, "w", 5, 80_000))


def test_zeros_are_zeros() -> None:
    """The first specification of a name counts; nothing is read."""
    source = Zeros([describe("w", torch.ones(3, 2)), describe("w", torch.ones(4))])
    assert source.header["w"].shape == (3, 2)
    assert not read(source, "w", 1, 4).any()
    assert source.read_cost("w") == 0
