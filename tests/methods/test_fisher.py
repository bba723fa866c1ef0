"""Fisher merging by hand."""

from typing import Any

import pytest
import torch

from eutectic.methods import get
from eutectic.methods.site import Site
from eutectic.numerics.draw import Key
from tests.make.sites import table

FISHER = get("fisher")
#: Data of other models changes how much each counts, which the norms even out.
MODELS = torch.stack([table((1.0, 2.0)), table((3.0, 6.0))])


def merge(diagonals: torch.Tensor, norms: tuple[float, ...] | None = None, **values: Any) -> torch.Tensor:
    """Merges two rows by given diagonals."""
    results: dict[str, Any] = {"fisher": diagonals}
    if norms is not None:
        results["norm"] = norms
    site = Site("w", 2, Key(0, "w"), results, MODELS)
    weight = site.column(values.pop("weight", (1.0, 1.0)))
    return FISHER(site, weight=weight, normalize=norms is not None, **values)


def test_by_hand() -> None:
    """F = (3, 0) and (1, 0): (3 * 1 + 1 * 3) / 4 = 1.5; nobody's predictions hang on the second, so its average 4."""
    diagonals = torch.stack([table((3.0, 0.0)), table((1.0, 0.0))])
    for floor in (0.0, 1e-9):
        assert torch.allclose(merge(diagonals, floor=floor), table((1.5, 4.0)))


def test_the_floor_is_added_before_weights() -> None:
    """(0 + 1) * 2 and (1 + 1) * 1: (2 * 1 + 2 * 3) / 4 = 2, and (2 * 2 + 2 * 6) / 4 = 4."""
    diagonals = torch.stack([table((0.0, 0.0)), table((1.0, 1.0))])
    assert torch.allclose(merge(diagonals, floor=1.0, weight=(2.0, 1.0)), table((2.0, 4.0)))


def test_norms_even_out_scales() -> None:
    """A diagonal ten times another, of ten times the norm, counts the same: the plain average."""
    one = table((2.0, 4.0))
    diagonals = torch.stack([one, 10 * one])
    norms = (float(one.norm()), 10 * float(one.norm()))
    assert torch.allclose(merge(diagonals, norms, floor=0.0), table((2.0, 4.0)))


@pytest.mark.parametrize("kind", ["exact", "sampled", "empirical", "batch"])
def test_asks_for_the_estimate_that_is_named(kind: str) -> None:
    """Each kind is a statistic of its own; the norm is asked for only if it is used."""
    read = FISHER.calibrated(weight=(1.0,), kind=kind, normalize=True, floor=0.0)
    assert set(read) == {"fisher", "norm"}
    assert kind in repr(read["fisher"])
    assert set(FISHER.calibrated(weight=(1.0,), kind=kind, normalize=False, floor=0.0)) == {"fisher"}
