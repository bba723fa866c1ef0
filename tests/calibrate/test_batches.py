import re
from pathlib import Path

import numpy as np
import pytest
import torch

from eutectic.calibrate.batches import Processor
from eutectic.calibrate.data import Sample, Samples
from eutectic.checkpoint.source import Checkpoint
from eutectic.errors import CalibrationError
from eutectic.stats.gradients import NO_LABEL
from tests.make.memory import MemorySource
from tests.make.transformer import tokenizer


@pytest.fixture
def processor(tmp_path: Path) -> Processor:
    """That of a folder with a tokenizer of whole words."""
    tokenizer(tmp_path)
    return Processor(Checkpoint("m", MemorySource({}), tmp_path), None, 6)


def test_texts_are_padded_and_masked(processor: Processor) -> None:
    """To the longest of their batch, after the cut; masks say what is no padding; labels are the tokens themselves."""
    rows = [Sample("w0 w1"), Sample("w2 w3 w4 w5 w6 w7 w8 w9"), Sample("nobody")]
    batch = processor.batch(rows, "data")
    assert batch.inputs["input_ids"].shape == (3, 6)
    assert batch.inputs["input_ids"][0].tolist() == [2, 3, 0, 0, 0, 0]
    (mask,) = batch.masks
    assert mask.sum(1).tolist() == [2, 6, 1]
    assert batch.labels is not None
    assert batch.labels[0].tolist() == [2, 3] + [NO_LABEL] * 4
    one = batch.one(2)
    assert (one.size, one.inputs["input_ids"].shape) == (1, (1, 6))


def test_labels_and_sizes(processor: Processor) -> None:
    """Class labels win over tokens; batches keep the order, the last is shorter."""
    samples = Samples("data", tuple(Sample(f"w{at}", label=at % 3) for at in range(7)), "")
    found = list(processor.batches(samples, 3))
    assert [batch.size for batch in found] == [3, 3, 1]
    assert torch.cat([batch.labels for batch in found if batch.labels is not None]).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert found[2].inputs["input_ids"].tolist() == [[8]]


def test_ready_inputs_are_stacked(processor: Processor) -> None:
    """Tokens of different lengths are padded and get a mask; arrays must have one shape."""
    rows = [Sample(inputs={"input_ids": np.arange(1, 4)}), Sample(inputs={"input_ids": np.arange(1, 3)})]
    batch = processor.batch(rows, "data")
    assert batch.masks[0].tolist() == [[True, True, True], [True, True, False]]
    pixels = [Sample(inputs={"pixel_values": np.zeros((3, size, 2), np.float32)}) for size in (2, 3)]
    with pytest.raises(CalibrationError, match=re.escape("found [3, 2, 2], [3, 3, 2]")):
        processor.batch(pixels, "data")


def test_what_cannot_be_batched(processor: Processor, tmp_path: Path) -> None:
    """Kinds mixed, words for labels, nothing to tokenise, no tokenizer at all."""
    with pytest.raises(CalibrationError, match="of one kind"):
        processor.batch([Sample("w1"), Sample(inputs={"x": np.zeros(3)})], "data")
    with pytest.raises(CalibrationError, match="numbers of classes, found 'cat'"):
        processor.batch([Sample("w1", label="cat")], "data")
    with pytest.raises(CalibrationError, match="expected text with tokens"):
        processor.batch([Sample("")], "data")
    bare = Processor(Checkpoint("m", MemorySource({}), tmp_path / "none"), None, 6)
    with pytest.raises(CalibrationError, match="m: expected a tokenizer"):
        bare.batch([Sample("w1")], "data")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.json").write_text("{}")
    broken = Processor(Checkpoint("m", MemorySource({}), tmp_path / "broken"), None, 6)
    with pytest.raises(CalibrationError, match="found none that loads"):
        broken.batch([Sample("w1")], "data")


def test_images_go_through_the_models_own_processor(tmp_path: Path) -> None:
    """Where Pillow is installed."""
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}'
    )
    image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / "a.png")
    processor = Processor(Checkpoint("m", MemorySource({}), tmp_path), None, 6)
    for given in (tmp_path / "a.png", image.open(tmp_path / "a.png")):
        batch = processor.batch([Sample(image=given)], "data")
        assert batch.inputs["pixel_values"].shape == (1, 3, 8, 8)
        assert batch.masks == ()
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(CalibrationError, match=r"b.png: expected an image file"):
        processor.batch([Sample(image=tmp_path / "b.png")], "data")


def test_digest_is_of_the_files_that_matter(processor: Processor, tmp_path: Path) -> None:
    """Another tokenizer is another digest; an adapter's base stands in when it has none."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    base = Checkpoint("b", MemorySource({}), tmp_path)
    assert Processor(Checkpoint("a", MemorySource({}), adapter), base, 6).digest() == processor.digest()
    tokenizer(adapter, ["other"])
    assert Processor(Checkpoint("a", MemorySource({}), adapter), base, 6).digest() != processor.digest()
