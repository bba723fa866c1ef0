import hashlib
from pathlib import Path

import numpy as np
import pytest

from eutectic.checkpoint.digest import BLOCK, source_digest, tensor_digest
from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.checkpoint.sharded import open_shards
from eutectic.errors import CheckpointError
from tests.make.checkpoints import write_file, write_model


def test_tensor_digest_is_of_type_shape_and_bytes(tmp_path: Path) -> None:
    """Worked by hand on a tensor of more than one block; the same bytes in another shape differ."""
    value = np.arange(BLOCK // 8 + 5, dtype=np.float64)
    source = SafetensorsFile(
        write_file(tmp_path / "x.safetensors", {"w": value, "m": value[None], "s": np.float32(1), "e": np.zeros(0)})
    )
    head = f"F64 [{value.size}]\n".encode()
    assert tensor_digest(source, "w") == hashlib.sha256(head + value.tobytes()).hexdigest()
    assert tensor_digest(source, "m") != tensor_digest(source, "w")
    assert tensor_digest(source, "s") == hashlib.sha256(b"F32 []\n\0\0\x80\x3f").hexdigest()
    assert tensor_digest(source, "e") == hashlib.sha256(b"F64 [0]\n").hexdigest()
    with pytest.raises(CheckpointError, match="no tensor 'x'"):
        tensor_digest(source, "x")
    source.close()


def test_source_digest_forgets_shards(tmp_path: Path) -> None:
    """The same tensors in one file or three digest alike; a renamed tensor does not."""
    tensors = {f"t{number}": np.full(3, number, np.float32) for number in range(4)}
    digests = set()
    for shards in (1, 3):
        source = open_shards(write_model(tmp_path / str(shards), tensors, shards=shards))
        assert source is not None
        digests.add(source_digest(source))
    assert len(digests) == 1
    renamed = SafetensorsFile(write_file(tmp_path / "r.safetensors", {f"{n}x": t for n, t in tensors.items()}))
    assert source_digest(renamed) not in digests
