from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.checkpoint.spec import DTYPES
from eutectic.errors import CheckpointError
from tests.make.checkpoints import entry, raw_bytes, read, write_file

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}


@given(
    st.dictionaries(
        st.text(max_size=8), st.tuples(st.sampled_from(sorted(TORCH)), st.lists(st.integers(0, 4), max_size=3))
    )
)
def test_reads_what_the_safetensors_package_writes(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, tuple[str, list[int]]]
) -> None:
    """Names, shapes, types and bytes of every type torch has, 0-d and empty tensors included."""
    shapes = {name: value for name, value in shapes.items() if "\0" not in name}
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (dtype, shape) in shapes.items():
        numel = int(np.prod(shape, dtype=int))
        raw = torch.randint(0, 2, (numel * DTYPES[dtype].bits // 8,), generator=generator, dtype=torch.uint8)
        tensors[name] = raw.view(TORCH[dtype]).reshape(shape)
    path = write_file(tmp_path_factory.mktemp("w") / "x.safetensors", tensors)
    source = SafetensorsFile(path)
    assert {n: (s.dtype.name, list(s.shape)) for n, s in source.header.items()} == shapes
    assert source.metadata == {"format": "pt"}
    for name, tensor in load_file(path).items():
        assert read(source, name).tobytes() == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        assert source.read_cost(name) == tensor.nbytes
    source.check_unchanged()
    source.close()


def test_packed_types_are_read_in_whole_bytes(tmp_path: Path) -> None:
    """Two 4-bit elements share a byte: ranges begin at even elements."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw_bytes({"q": entry("F4", [3, 4], 0, 6)}, b"abcdef"))
    source = SafetensorsFile(path)
    out = np.empty(2, np.uint8)
    source.will_need("q", 4, 8)
    source.read_into("q", 4, out)
    assert out.tobytes() == b"cd"
    source.close()


def test_unknown_tensors_are_named(tmp_path: Path) -> None:
    """Asking for a tensor that is not there names the file and the nearest tensor."""
    source = SafetensorsFile(write_file(tmp_path / "x.safetensors", {"weight": np.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"x.safetensors: there is no tensor 'weigth'; did you mean 'weight'\?"):
        source.read_into("weigth", 0, np.empty(8, np.uint8))
    source.close()


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    """Opening twice gives one fingerprint; writing again gives another."""
    path = write_file(tmp_path / "x.safetensors", {"w": np.zeros(2)})
    fingerprints = []
    for values in (None, None, np.ones(2)):
        if values is not None:
            write_file(path, {"w": values})
        source = SafetensorsFile(path)
        fingerprints.append(source.fingerprint())
        source.close()
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
