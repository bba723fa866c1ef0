from pathlib import Path

import pytest

import eutectic


def test_models_open_by_headers(here: Path) -> None:
    """A folder, a file, an adapter, and a base with an adapter; by string or path."""
    folder = eutectic.open("base")
    assert (folder.reference, len(folder.source.header), folder.deltas) == ("base", 21, False)
    assert folder.config["model_type"] == "llama"
    file = eutectic.open(here / "base" / "model.safetensors")
    assert dict(file.source.header) == dict(folder.source.header)
    adapter = eutectic.open("style-lora")
    assert adapter.deltas
    assert sorted(adapter.source.header) == [f"model.layers.{b}.self_attn.q_proj.weight" for b in (0, 1)]
    both = eutectic.open("base+style-lora")
    assert (len(both.source.header), both.deltas) == (21, False)
    for each in (folder, file, adapter, both):
        each.source.close()


def test_pickles_are_asked_for(here: Path) -> None:
    """A torch file is refused by name unless pickles are allowed."""
    import torch

    torch.save({"w": torch.ones(2)}, here / "weights.bin")
    with pytest.raises(eutectic.CheckpointError, match=r"weights\.bin"):
        eutectic.open("weights.bin")
    assert list(eutectic.open("weights.bin", pickles=True).source.header) == ["w"]


def test_inspection(here: Path) -> None:
    """Names, roles, blocks; the file can be removed afterwards, nothing holds it."""
    seen = eutectic.inspect("base")
    assert isinstance(seen, eutectic.Inspection)
    assert dict(seen.layout.stacks) == {"model.layers": 2}
    assert seen.layout.places["model.layers.1.mlp.up_proj.weight"].block == 1
    assert seen.fingerprint == eutectic.inspect("base").fingerprint
    assert seen.fingerprint != eutectic.inspect("code").fingerprint


def test_what_cannot_be_opened(here: Path) -> None:
    """No such path; two separators that can be read in no way; a hub model with downloads off."""
    with pytest.raises(eutectic.CheckpointError, match="nowhere"):
        eutectic.open("nowhere")
    with pytest.raises(eutectic.RecipeError, match="is not a model reference"):
        eutectic.open("org/name@one@two")
    with pytest.raises(eutectic.CheckpointError, match="downloads are off"):
        eutectic.inspect("org/name", offline=True)
