from pathlib import Path

import numpy as np
import pytest

from eutectic.adapters.lora import against, fold, open_adapter
from eutectic.adapters.sources import DeltaSource, share_memory
from eutectic.errors import CheckpointError
from tests.make.adapters import factors, read, write_adapter, write_base


def zeros(*shape: int) -> np.ndarray:
    """Returns float32 zeros."""
    return np.zeros(shape, np.float32)


def test_read_cost(tmp_path: Path) -> None:
    """A difference costs its factors; a folded tensor the base too; DoRA reads the base twice."""
    base = write_base(tmp_path / "base", {"x.weight": zeros(3, 5), "y.weight": zeros(3, 5)})
    plain = write_adapter(tmp_path / "plain", factors("x", 3, 5))
    tensors = factors("x", 3, 5) | {"base_model.model.x.lora_magnitude_vector": zeros(3)}
    dora = write_adapter(tmp_path / "dora", tensors, use_dora=True)
    pair, weight = 4 * (2 * 5 + 3 * 2), 4 * 3 * 5
    assert open_adapter(plain).source.read_cost("x.weight") == pair
    assert against(base, plain).source.read_cost("x.weight") == pair
    assert fold(base, plain).source.read_cost("x.weight") == pair + weight
    assert fold(base, plain).source.read_cost("y.weight") == weight
    assert against(base, dora).source.read_cost("x.weight") == pair + 12 + 2 * weight
    assert fold(base, dora).source.read_cost("x.weight") == pair + 12 + 2 * weight


def test_full_tensors_keep_their_stored_type(tmp_path: Path) -> None:
    """A tensor stored in full passes through bit for bit; as a difference it is float32."""
    base = write_base(tmp_path / "base", {"x.weight": zeros(3, 5), "head.weight": zeros(2, 3) + 0.5})
    tensors = factors("x", 3, 5) | {"base_model.model.head.weight": np.full((2, 3), 0.25, np.float16)}
    folder = write_adapter(tmp_path / "adapter", tensors, modules_to_save=["head"])
    folded, deltas = fold(base, folder).source, against(base, folder).source
    assert folded.header["head.weight"].dtype.name == "F16"
    assert (read(folded, "head.weight") == 0.25).all()
    assert deltas.header["head.weight"].dtype.name == "F32"
    assert (read(deltas, "head.weight") == -0.25).all()


def test_a_copied_embedding_leaves_the_bare_update(tmp_path: Path) -> None:
    """PEFT stores a copy of an adapted embedding; its difference is the update, without rounding noise."""
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((7, 3)).astype(np.float32)
    a, b = draw.standard_normal((2, 7)).astype(np.float32), draw.standard_normal((3, 2)).astype(np.float32) * 1e-6
    names = {"base_model.model.e.lora_embedding_A": a, "base_model.model.e.lora_embedding_B": b}
    bare = open_adapter(write_adapter(tmp_path / "bare", names)).source
    names["base_model.model.e.base_layer.weight"] = weight
    base = write_base(tmp_path / "base", {"e.weight": weight})
    copied = against(base, write_adapter(tmp_path / "copied", names)).source
    np.testing.assert_array_equal(read(copied, "e.weight"), read(bare, "e.weight"))


def test_names_and_hints(tmp_path: Path) -> None:
    """Sources name themselves and the base they were trained on, and take hints for any tensor."""
    base = write_base(tmp_path / "base", {"x.weight": zeros(3, 5), "y.weight": zeros(3, 5)})
    folder = write_adapter(tmp_path / "adapter", factors("x", 3, 5))
    folded, deltas = fold(base, folder).source, against(base, folder).source
    assert deltas.name == str(folder)
    assert str(folder) in folded.name
    for name in folded.header:
        folded.will_need(name, 0, 15)
    deltas.will_need("x.weight", 0, 15)


@pytest.mark.parametrize("size", [4 * 16, 3])
def test_ranges_outside_a_tensor(size: int, tmp_path: Path) -> None:
    """A range that leaves the tensor, or ends inside an element, is the caller's bug."""
    source = open_adapter(write_adapter(tmp_path, factors("x", 3, 5))).source
    with pytest.raises(ValueError, match="not a range"):
        source.read_into("x.weight", 0, np.empty(size, np.uint8))


def test_unknown_names(tmp_path: Path) -> None:
    """A difference the adapter does not make is refused with the nearest name."""
    source = open_adapter(write_adapter(tmp_path, factors("x", 3, 5))).source
    with pytest.raises(CheckpointError, match=r"did you mean 'x\.weight'"):
        source.read_into("y.weight", 0, np.empty(4, np.uint8))


def test_closing_differences_leaves_the_base_open(tmp_path: Path) -> None:
    """Several adapters share one base: closing one of them does not close it."""
    base = write_base(tmp_path / "base", {"x.weight": zeros(3, 5)})
    against(base, write_adapter(tmp_path / "adapter", factors("x", 3, 5))).source.close()
    assert not read(base.source, "x.weight").any()


def test_adapters_share_what_they_keep(tmp_path: Path) -> None:
    """Many of them keep less each, down to one module's factors, and read the same."""
    folders = [write_adapter(tmp_path / f"a{at}", factors("x", 3, 5) | factors("y", 3, 5, seed=1)) for at in (0, 1)]
    opened = [open_adapter(folder).source for folder in folders]
    before = read(opened[0], "x.weight")
    share_memory(opened)
    assert np.array_equal(read(opened[0], "x.weight"), before)
    for source in opened:
        assert isinstance(source, DeltaSource)
        source.adapter.keep(0)
    assert np.array_equal(read(opened[1], "y.weight"), read(opened[0], "y.weight"))
