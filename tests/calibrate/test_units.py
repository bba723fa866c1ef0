"""Blocks as functions: what they answer is what the model's own forward computes."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import eutectic
from eutectic.calibrate.skeleton import Skeleton, Weights, build
from eutectic.calibrate.units import Unit, complete, names_in, units_of
from eutectic.errors import CalibrationError
from tests.make.transformer import config, save

KINDS = {"bert": "BertModel", "llama": "LlamaModel", "gpt2": "GPT2Model", "t5": "T5Model", "vit": "ViTModel"}


def skeleton_of(folder: Path, kind: str) -> tuple[Skeleton, Any]:
    """A model's skeleton, and where its tensors are."""
    opened = eutectic.open(save(folder / kind, config(kind), KINDS[kind], 1, words=False))
    skeleton = Skeleton(build(opened, headless=True), kind)
    return skeleton, skeleton.fit(Weights(opened))


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_answers_as_in_its_model(kind: str, tmp_path: Path) -> None:
    """For every family: a block with its own tensors on three inputs equals transformers' block on each alone."""
    skeleton, fitted = skeleton_of(tmp_path, kind)
    units = units_of(skeleton, "block")
    complete(skeleton, fitted, units, tokens=4)
    model = getattr(transformers, KINDS[kind]).from_pretrained(tmp_path / kind).eval()
    for unit in units:
        assert all(p.is_meta for p in unit.module.parameters())
        inputs = torch.randn(3, *unit.shape, generator=torch.Generator().manual_seed(0))
        tensors = unit.read(skeleton, fitted)
        with torch.no_grad():
            together = unit(tensors, inputs)
            alone = torch.cat([unit(tensors, each[None]) for each in inputs])
            theirs = model.get_submodule(unit.path)
            again = Unit(unit.name, unit.path, theirs, unit.shape, unit.given, unit.copies)
            torch.testing.assert_close(together, again(dict(theirs.named_parameters()), inputs))
        assert together.shape == inputs.shape
        torch.testing.assert_close(together, alone)
        assert names_in(skeleton, fitted, unit.path).keys() == dict(theirs.named_parameters()).keys()


def test_feed_forward_parts(tmp_path: Path) -> None:
    """A Llama's gated part is down(silu(gate x) * up x) on single vectors; a BERT has no part of that name."""
    skeleton, fitted = skeleton_of(tmp_path, "llama")
    unit = units_of(skeleton, "mlp")[1]
    tensors, inputs = unit.read(skeleton, fitted), torch.randn(5, 16)
    assert (unit.shape, set(tensors)) == ((16,), {f"{part}_proj.weight" for part in ("gate", "up", "down")})
    gate, up, down = (tensors[f"{part}_proj.weight"] for part in ("gate", "up", "down"))
    want = (torch.nn.functional.silu(inputs @ gate.T) * (inputs @ up.T)) @ down.T
    torch.testing.assert_close(unit(tensors, inputs), want)
    skeleton, _ = skeleton_of(tmp_path, "bert")
    with pytest.raises(CalibrationError, match=r"called mlp, found none; take unit: block"):
        units_of(skeleton, "mlp")


def test_a_model_without_blocks_is_refused() -> None:
    """One linear map."""
    with pytest.raises(CalibrationError, match="numbered blocks"):
        units_of(Skeleton(torch.nn.Linear(2, 2), "one"), "block")
