import pytest
import torch

from tests.make.sites import Job, merge, table

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
BASE = table([1, 1, 1, 1])
DELTAS = (table([4, 2, 0, 8]), table([0, 6, 0, -2]), table([0, 0, 3, 0]))


def ram(fused: bool, deltas: tuple[torch.Tensor, ...] = DELTAS, **values: object) -> list[float]:
    """Returns the merged delta."""
    models = [BASE + delta for delta in deltas]
    found = merge(("ram", values), models, BASE, fused=fused, double=True, out="F64") - BASE
    return found[0].tolist()  # type: ignore[no-any-return]


@FUSED
def test_by_hand(fused: bool) -> None:
    """4 and 3 are one model's own; 2 and 6, and 8 and -2, are two models': their means."""
    assert ram(fused) == [4, 4, 3, 3]


@FUSED
def test_small_deltas_are_none(fused: bool) -> None:
    """Below 3 there is none: 2 and -2 no longer count; 3 itself does."""
    assert ram(fused, epsilon=3.0) == [4, 6, 3, 8]
    assert ram(fused, epsilon=3.5) == [4, 6, 0, 8]


@FUSED
def test_own_deltas_are_strengthened(fused: bool) -> None:
    """The first shares 2 and has 1 of its own: rho 2; the third shares none. The second has none of its own."""
    assert ram(fused, r=0.5, alpha=3.0) == [4 * (1 + 0.5 * 2), 4, 3, 3]
    assert ram(fused, r=0.5, alpha=1.0) == [4 * 1.5, 4, 3, 3]


@FUSED
@pytest.mark.parametrize(("scope", "factor"), [("tensor", 3.0), ("model", 2.0)])
def test_scope(fused: bool, scope: str, factor: float) -> None:
    """The first model shares 2 and has 1 of its own in tensor a, and 0 and 1 in tensor b: rho 2 and 0, or 2 / 2."""
    first = {"a": torch.tensor([4.0, 2.0, 8.0]), "b": torch.tensor([5.0])}
    second = {"a": torch.tensor([0.0, 6.0, -2.0]), "b": torch.tensor([0.0])}
    base = {name: torch.zeros_like(value) for name, value in first.items()}
    merged = Job([("ram", {"r": 1.0, "alpha": 9.0, "scope": scope})], [first, second], base, fused=fused).run()
    assert merged.tensor("a").tolist() == [4 * factor, 4, 3]
    assert merged.tensor("b").tolist() == [5.0 if scope == "tensor" else 10.0]


@FUSED
def test_a_nan_is_seen(fused: bool) -> None:
    """Alone or beside others."""
    models = [BASE + delta for delta in DELTAS]
    models[0][0, 0] = models[1][0, 1] = float("nan")
    assert merge(("ram", {}), models, BASE, fused=fused).isnan().tolist() == [[True, True, False, False]]
