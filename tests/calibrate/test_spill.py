from pathlib import Path

import torch

from eutectic.calibrate.spill import LEAST, Spill


def test_tensors_lose_and_regain_their_memory(tmp_path: Path) -> None:
    """Everyone who refers to them sees the same numbers afterwards, views included; files are gone at the end."""
    big = torch.randn(LEAST)
    view, copy = big[::2], big.clone()
    with Spill([], tmp_path) as spill:
        spill.put(0, ((big,), {"mask": [view]}))
        assert big.untyped_storage().nbytes() == 0
        assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
        spill.fetch(0)
        assert torch.equal(big, copy)
        assert torch.equal(view, copy[::2])
    assert list(tmp_path.iterdir()) == []


def test_what_is_small_or_the_models_own_stays(tmp_path: Path) -> None:
    """Nothing is written for them."""
    own, small = torch.randn(LEAST), torch.randn(4)
    with Spill([own], tmp_path) as spill:
        spill.put(0, [own, small, "text", None])
        assert own.untyped_storage().nbytes() > 0
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
        spill.fetch(0)
        spill.fetch(1)  # nothing was put: nothing to do
