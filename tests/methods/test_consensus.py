import pytest
import torch

from eutectic.errors import RecipeError
from eutectic.methods import get
from tests.make.sites import merge, table

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
BASE = table([10, 10, 10, 10])
A = table([4, 1, 0, -2])
B = table([1, -1, 0, -2])


def consensus(fused: bool, deltas: list[torch.Tensor], **values: object) -> list[list[float]]:
    """Returns the merged delta around the base."""
    merged: list[list[float]] = (
        merge(("consensus", values), [BASE + delta for delta in deltas], BASE, fused=fused) - BASE
    ).tolist()
    return merged


@FUSED
def test_by_hand(fused: bool) -> None:
    """At threshold 0.5 the masks are 1, 1, 0, 1 and 0, 1, 0, 1 (as for TALL masks), and the sum is 5, 0, 0, -4.

    Two of two hold the second and the last; one holds the first besides; none is asked for with 0.
    """
    values = {"threshold": 0.5, "scale": 0.5}
    assert consensus(fused, [A, B], least=2, **values) == [[0, 0, 0, -2]]
    assert consensus(fused, [A, B], least=1, **values) == [[2.5, 0, 0, -2]]
    assert consensus(fused, [A, B], least=0, **values) == [[2.5, 0, 0, -2]]
    assert consensus(fused, [A, B], least=3, **values) == [[0, 0, 0, 0]]


@FUSED
def test_least_one_drops_what_no_task_uses(fused: bool) -> None:
    """Both 2 away from base and 2 from the sum's 4, neither strictly nearer at threshold 1: dropped, unless none."""
    two = table([2, 0, 0, 0])
    assert consensus(fused, [two, two], least=1, threshold=1.0, scale=1.0) == [[0, 0, 0, 0]]
    assert consensus(fused, [two, two], least=0, threshold=1.0, scale=1.0) == [[4, 0, 0, 0]]


@FUSED
def test_ties_vector(fused: bool) -> None:
    """The TIES vector is 5, -1, 0, -4 and the masks 1, 1, 0, 1 and 0, 1, 0, 1 (see TALL masks)."""
    values = {"threshold": 0.25, "vector": "ties", "density": 0.5, "scale": 1.0}
    assert consensus(fused, [A, B], least=2, **values) == [[0, -1, 0, -4]]


@FUSED
def test_not_finite_is_seen(fused: bool) -> None:
    """An infinite model is nowhere nearer than the base, and what it did is not dropped but shown."""
    broken = BASE.clone()
    broken[0, 2] = float("inf")
    merged = merge(("consensus", {"least": 2}), [broken, BASE + B], BASE, fused=fused)
    assert merged.isfinite().tolist() == [[True, True, False, True]]


def test_refusals() -> None:
    """`least` is a whole number from 0 on."""
    least = get("consensus").parameter("least")
    assert least is not None
    for wrong in (-1, 1.5, True):
        with pytest.raises(RecipeError, match="least"):
            least.check(wrong, "here")
