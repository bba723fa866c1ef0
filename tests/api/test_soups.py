from pathlib import Path

import pytest
from safetensors.torch import load_file

import eutectic
from eutectic.checkpoint.source import Checkpoint

HEAD = "lm_head.weight"
START = {"model": "base", "name": "start"}


def nearness(folder: Path) -> float:
    """Scores a model by how near it is to the middle of code and maths."""
    code, maths, found = (load_file(path / "model.safetensors") for path in (Path("code"), Path("maths"), folder))
    return -sum(float(((code[n].double() + maths[n].double()) / 2 - found[n].double()).square().sum()) for n in found)


def test_what_helps_is_averaged(here: Path) -> None:
    """Code and maths belong together, the base does not; the result is their average, and nothing else is left."""
    soup = eutectic.greedy_soup([START, "code", "maths"], nearness, out="soup", memory="1 GiB")
    assert set(soup.ingredients) == {"code", "maths"}
    assert len(soup.scores) == 3
    assert soup.score > max(soup.scores)
    assert nearness(here / "soup") == soup.score
    average = eutectic.merge(soup.ingredients, method="linear")
    assert soup.recipe == average
    assert soup.receipt.job == eutectic.plan(average).job
    assert eutectic.verify("soup", sample=None).ok
    assert {path.name for path in here.iterdir() if "soup" in path.name} == {"soup"}


def test_a_checkpoint_is_scored_without_writing(here: Path) -> None:
    """An open checkpoint reads as the model that would be written; the score is the same."""
    shown: list[int] = []

    def score(model: Checkpoint) -> float:
        shown.append(len(list(here.glob("**/*.safetensors"))))
        out = here / f"copy{len(shown)}"
        same = {d.name: d.relative for d in eutectic.diff(model, "code")}
        assert not out.exists()
        return -same[HEAD]

    soup = eutectic.greedy_soup([START, "code"], score, out="soup", show="checkpoint")
    assert soup.ingredients == ("code",)
    assert soup.scores[1] == 0
    assert set(shown) == {shown[0]}


def test_an_equal_score(here: Path) -> None:
    """A score that never changes adds nothing, or everything."""
    one = eutectic.greedy_soup([START, "code", "maths"], lambda folder: 1, out="one")
    every = eutectic.greedy_soup([START, "code", "maths"], lambda folder: 1, out="every", accept="at_least")
    assert (one.ingredients, every.ingredients) == (("start",), ("start", "code", "maths"))


def test_a_pattern_and_options(here: Path) -> None:
    """Ingredients may be named by a pattern, and the recipe's other keys given."""
    soup = eutectic.greedy_soup("[cm]*", lambda folder: 0, out="soup", output={"dtype": "bfloat16"})
    assert soup.ingredients == ("code",)
    assert soup.recipe.output.dtype == "bfloat16"


def test_refused(here: Path) -> None:
    """An output that is in use, before any work; a score that is no number; a score that fails leaves nothing."""

    def fail(folder: Path) -> float:
        raise ZeroDivisionError

    before = {path.name for path in here.iterdir()}
    with pytest.raises(eutectic.OutputError, match="new or empty"):
        eutectic.greedy_soup(["code"], fail, out="base")
    with pytest.raises(eutectic.RecipeError, match="found nan"):
        eutectic.greedy_soup(["code"], lambda folder: float("nan"), out="soup")
    with pytest.raises(ZeroDivisionError):
        eutectic.greedy_soup(["code"], fail, out="soup")
    assert {path.name for path in here.iterdir()} - before <= {"cache"}
