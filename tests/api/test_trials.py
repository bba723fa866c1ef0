"""Merges that are made to be scored."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

import eutectic
from eutectic.api.trials import Trials
from eutectic.checkpoint.source import Checkpoint

RECIPE = {"models": ["code", "maths"], "method": "linear"}


def test_a_folder_is_shown_and_gone(here: Path) -> None:
    """The scorer sees a whole model beside the output; nothing is left, also where it fails."""
    recipe = eutectic.merge(**RECIPE)  # type: ignore[arg-type]
    shown: list[Path] = []

    def score(folder: Path) -> float:
        shown.append(folder)
        assert (folder / "config.json").is_file()
        return float(load_file(folder / "model.safetensors")["lm_head.weight"].float().abs().sum())

    with Trials("mix", score, "folder", None, 1) as trials:
        assert trials.score(recipe, "one") > 0
        assert shown[0].parent.parent == here
        assert not shown[0].exists()
        broken = Trials("other", lambda folder: folder.nowhere, "folder", None, 1)
        with pytest.raises(AttributeError), broken:
            broken.score(recipe, "one")
    assert not [path for path in here.iterdir() if path.name.startswith((".mix", ".other"))]


def test_a_checkpoint_is_shown_and_closed(here: Path) -> None:
    """It reads as what would be written, and cannot be read behind the score."""
    recipe = eutectic.merge(**RECIPE)  # type: ignore[arg-type]
    shown: list[Checkpoint] = []

    def score(model: Checkpoint) -> float:
        shown.append(model)
        return max(each.relative for each in eutectic.diff(model, "merged"))

    eutectic.run(eutectic.plan(recipe), out="merged")
    with Trials("mix", score, "checkpoint", None, 1) as trials:
        assert trials.score(recipe, "one") == 0
    assert not (here / "mix").exists()


def test_an_output_that_is_taken(here: Path) -> None:
    """It is refused at once."""
    (here / "file").write_text("mine")
    for taken in ("base", "file"):
        with pytest.raises(eutectic.OutputError, match="new or empty folder"):
            Trials(taken, float, "folder", None, 1)
