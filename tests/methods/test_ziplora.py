"""ZipLoRA's merge by hand; its learning is tested beside the learner."""

import pytest
import torch

from eutectic.errors import RecipeError
from eutectic.methods import get
from eutectic.methods.site import Site
from eutectic.numerics.draw import Key
from eutectic.recipe.chain import asked
from eutectic.stats.columns import ColumnWeights
from eutectic.stats.store import Measured
from tests.make.sites import table

ZIPLORA = get("ziplora")
BASE, FIRST, SECOND = table((1, 1, 1), (2, 2, 2)), table((1, 0, 2), (0, 1, 0)), table((0, 4, 2), (2, 0, 0))


@pytest.mark.parametrize("axis", [0, 1])
def test_by_hand(axis: int) -> None:
    """Channels weighted (1, 2, 0) and (0.5, 1, 3), around a base.

    (1 0 2; 0 1 0) diag(1, 2, 0) = (1 0 0; 0 2 0) and (0 4 2; 2 0 0) diag(0.5, 1, 3) = (0 4 6; 1 0 0): their sum is
    (1 4 6; 1 2 0), and the base (1 1 1; 2 2 2) makes (2 5 7; 3 4 2) of it. Transposed, channels are the rows.
    """
    weights = [torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.5, 1.0, 3.0])]
    folds = {"columns": [Measured.of(each, 6, axis) for each in weights]}
    deltas = torch.stack([FIRST, SECOND])
    base, deltas = (BASE, deltas) if axis else (BASE.T, deltas.mT)
    merged = ZIPLORA(Site("w", 2, Key(0, "w"), folds, deltas, base, True))
    assert torch.equal(merged if axis else merged.T, table((2, 5, 7), (3, 4, 2)))


def test_what_it_asks_of_data() -> None:
    """Its settings are those of what is learned: others are learned anew."""
    assert asked("ziplora") == (ColumnWeights(0.01, "code", 100, 0.01),)
    assert asked({"ziplora": {"overlap": "paper", "steps": 7}}) == (ColumnWeights(0.01, "paper", 7, 0.01),)
    similarity = ZIPLORA.parameter("similarity")
    assert similarity is not None
    with pytest.raises(RecipeError, match="similarity is at least 0"):
        similarity.check(-1.0, "ziplora")
