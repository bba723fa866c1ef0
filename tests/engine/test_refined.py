"""A refined merge as a source: which tensors come from the store, and what is said before they are there."""

from pathlib import Path

import numpy as np
import pytest

import eutectic
from eutectic.engine.refined import Refined
from eutectic.errors import CalibrationError
from tests.make.transformer import config, family


def test_reads_from_the_store_or_from_what_is_refined(tmp_path: Path) -> None:
    """Blocks are float32 and refused until they are solved; the rest is the base's; slices are parts of the whole."""
    family(tmp_path, "BertModel", config("bert"), n=1, words=False)
    made = eutectic.merge(
        [str(tmp_path / "expert0")],
        base=str(tmp_path / "base"),
        method="task_arithmetic",
        anchors={"start": "base", "count": 3, "tokens": 2, "steps": 2, "epochs": 1},
    )
    planned = eutectic.plan(made, store=tmp_path / "store")
    source = planned.inputs[1].source
    assert isinstance(source, Refined)
    name = "encoder.layer.1.output.dense.bias"
    out = np.empty(16 * 4, np.uint8)
    with pytest.raises(CalibrationError, match="not solved yet"):
        source.read_into(name, 0, out)
    source.read_into("pooler.dense.bias", 0, out)
    before = source.fingerprint()
    eutectic.calibrate(planned)
    source.read_into(name, 0, out)
    part = np.empty(3 * 4, np.uint8)
    source.read_into(name, 5, part)
    assert part.tobytes() == out[20:32].tobytes()
    assert source.header[name].dtype.name == "F32"
    assert source.read_cost(name) == 64
    assert source.fingerprint() == before
    source.check_unchanged()
    source.close()
