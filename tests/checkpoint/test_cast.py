from pathlib import Path

import numpy as np
import pytest
import torch

from eutectic.checkpoint.cast import Cast
from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.checkpoint.spec import DTYPES
from eutectic.errors import CheckpointError
from tests.make.checkpoints import read, write_file


def test_floats_are_cast_and_the_rest_is_not(tmp_path: Path) -> None:
    """A tensor of more than one block is cast as torch casts it; integers and fp8 codes stay."""
    weight = torch.randn(70_000, generator=torch.Generator().manual_seed(0))
    tensors = {"w": weight, "ids": np.arange(3), "code": torch.ones(4).to(torch.float8_e4m3fn)}
    source = SafetensorsFile(write_file(tmp_path / "x.safetensors", tensors))
    view = Cast(source, DTYPES["BF16"])
    assert {name: spec.dtype.name for name, spec in view.header.items()} == {
        "w": "BF16",
        "ids": "I64",
        "code": "F8_E4M3",
    }
    assert read(view, "w").tobytes() == weight.bfloat16().view(torch.uint8).numpy().tobytes()
    for name in ("ids", "code"):
        assert read(view, name).tobytes() == read(source, name).tobytes()
    assert view.read_cost("w") == 280_000
    assert view.fingerprint() != Cast(source, DTYPES["F64"]).fingerprint()
    view.will_need("w", 0, 10)
    view.close()


@pytest.mark.parametrize("dtype", ["I64", "F8_E5M2", "C64", "BOOL"])
def test_only_floats_are_targets(tmp_path: Path, dtype: str) -> None:
    """A cast to what is not a plain float would lose more than precision."""
    source = SafetensorsFile(write_file(tmp_path / "x.safetensors", {"w": np.ones(1)}))
    with pytest.raises(CheckpointError, match=f"expected a cast to F64, F32, F16 or BF16, found {dtype}"):
        Cast(source, DTYPES[dtype])
