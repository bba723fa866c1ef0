import pytest

from tests.make.sites import merge, table

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
BASE = table([1, 1, 1], [2, 2, 2])
FIRST = BASE + table([1, 0, -1], [2, 0, 4])
SECOND = BASE + table([0, 2, -1], [-2, 0, 4])


@FUSED
def test_by_hand(fused: bool) -> None:
    """Base + 2 (d1 + 0.5 d2), where d1 + 0.5 d2 = ((1, 1, -1.5), (1, 0, 6))."""
    values = {"weight": (1.0, 0.5), "scale": 2.0}
    assert merge(("task_arithmetic", values), [FIRST, SECOND], BASE, fused=fused).tolist() == [[3, 3, -2], [4, 2, 14]]


@FUSED
def test_addition(fused: bool) -> None:
    """By default the deltas are added as they are."""
    assert merge(("task_arithmetic", {}), [FIRST, SECOND], BASE, fused=fused).tolist() == [[2, 3, -1], [2, 2, 10]]


@FUSED
def test_negation(fused: bool) -> None:
    """A negative weight forgets: base - d1."""
    merged = merge(("task_arithmetic", {"weight": -1.0}), [FIRST], BASE, fused=fused)
    assert merged.tolist() == [[0, 1, 2], [0, 2, -2]]


@FUSED
def test_analogy(fused: bool) -> None:
    """A is to B as C is to D: C + B - A with weights 1, 1, -1; here A is C, so D is B."""
    merged = merge(("task_arithmetic", {"weight": (1.0, 1.0, -1.0)}), [FIRST, SECOND, FIRST], BASE, fused=fused)
    assert merged.tolist() == SECOND.tolist()


@FUSED
def test_normalize(fused: bool) -> None:
    """Divided by the sum of weights 3 + 1: base + (3 d1 + d2) / 4."""
    values = {"weight": (3.0, 1.0), "normalize": True}
    merged = merge(("task_arithmetic", values), [FIRST, SECOND], BASE, fused=fused)
    assert merged.tolist() == [[1.75, 1.5, 0], [3, 2, 6]]


@FUSED
def test_normalize_by_nothing(fused: bool) -> None:
    """Weights that add up to less than 1e-8 do not divide (as mergekit): base + d1 - d2."""
    values = {"weight": (1.0, -1.0), "normalize": True}
    merged = merge(("task_arithmetic", values), [FIRST, SECOND], BASE, fused=fused)
    assert merged.tolist() == [[2, -1, 1], [6, 2, 2]]


@FUSED
def test_adapters_are_added_as_they_are(fused: bool) -> None:
    """A model that is a difference already is not subtracted from the base again."""
    merged = merge(("task_arithmetic", {}), [FIRST - BASE, SECOND], BASE, fused=fused, deltas=[True, False])
    assert merged.tolist() == [[2, 3, -1], [2, 2, 10]]
