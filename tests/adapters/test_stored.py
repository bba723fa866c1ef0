from pathlib import Path

import numpy as np
import pytest
import torch

from eutectic.adapters.stored import FactorStore, Pair, read_small, widened
from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.checkpoint.spec import DTYPES
from eutectic.errors import CheckpointError
from tests.make.checkpoints import write_file

TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@pytest.mark.parametrize("name", TYPES)
def test_widening_is_exact(name: str) -> None:
    """Every half-precision value, denormals and infinities included, keeps its value; wider ones keep their bits."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    values = bits.view(TYPES[name]) if name in ("F16", "BF16") else torch.randn(100, dtype=TYPES[name])
    wide = torch.float64 if name == "F64" else torch.float32
    ours = widened(values.view(torch.uint8).numpy(), DTYPES[name])
    np.testing.assert_array_equal(ours, values.to(wide).numpy())
    assert ours.dtype == (np.float64 if name == "F64" else np.float32)


def test_codes_have_no_values() -> None:
    """Types that need scales are never read as numbers."""
    with pytest.raises(ValueError, match="F8_E4M3"):
        widened(np.zeros(4, np.uint8), DTYPES["F8_E4M3"])


def file(folder: Path, count: int) -> SafetensorsFile:
    """Writes `count` pairs of factors, (4, 2) and (2, 8)."""
    draw = np.random.default_rng(0)
    tensors = {f"{i}.b": draw.standard_normal((4, 2)).astype(np.float32) for i in range(count)}
    tensors |= {f"{i}.a": draw.standard_normal((2, 8)).astype(np.float32) for i in range(count)}
    return SafetensorsFile(write_file(folder / "x.safetensors", tensors))


def test_store_keeps_the_latest_within_its_limit(tmp_path: Path) -> None:
    """A second use returns the same factors until others took their room; one pair is kept whatever its size."""
    pairs = [Pair(f"{i}.a", f"{i}.b", 1.0, False) for i in range(3)]
    store = FactorStore(file(tmp_path, 3), limit=200)  # a pair takes 96 bytes
    first = store.get(pairs[0])
    assert first.nbytes == 96
    assert store.get(pairs[1]) is not first
    assert store.get(pairs[0]) is first
    store.get(pairs[2])
    assert store.get(pairs[0]) is first
    store.get(pairs[1])
    store.get(pairs[2])
    assert store.get(pairs[0]) is not first
    tiny = FactorStore(file(tmp_path, 1), limit=1)
    assert tiny.get(pairs[0]) is tiny.get(pairs[0])


def test_transposed_factors(tmp_path: Path) -> None:
    """A transposed pair gives the transposed update."""
    store = FactorStore(file(tmp_path, 1))
    plain, turned = np.empty(32, np.float32), np.empty(32, np.float32)
    store.get(Pair("0.a", "0.b", 2.0, False)).into(0, plain)
    store.get(Pair("0.a", "0.b", 2.0, True)).into(0, turned)
    np.testing.assert_array_equal(plain.reshape(4, 8), turned.reshape(8, 4).T)


def test_nan_is_named(tmp_path: Path) -> None:
    """The first non-finite value of an adapter tensor is named with its place."""
    path = write_file(tmp_path / "x.safetensors", {"a": np.array([[0, 1], [np.nan, np.inf]], np.float32)})
    with pytest.raises(CheckpointError, match=r"'a' holds nan at element 2"):
        read_small(SafetensorsFile(path), "a")
