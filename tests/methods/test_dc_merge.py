"""DC-Merge, by hand along the axes."""

import torch

from eutectic.adapters.factors import Factors
from tests.make.factors import made, merged, updates


def axes(places: list[int], values: list[float], size: int = 4) -> Factors:
    """Returns an update with values at places on the diagonal."""
    b = torch.zeros(size, len(places)).double()
    a = torch.zeros(len(places), size).double()
    for at, (place, value) in enumerate(zip(places, values, strict=True)):
        b[place, at], a[at, place] = value, 1.0
    return Factors(b, a)


def test_spectra_become_their_means() -> None:
    """Tasks that share no direction: (6, 2) is 4 and 4, (3, 1) is 2 and 2; alone at their place, means of one vote."""
    got = merged(("dc_merge", {"keep": 1.0}), [axes([0, 1], [6, 2]), axes([2, 3], [3, 1])])
    assert torch.allclose(got, torch.diag(torch.tensor([4.0, 4, 2, 2])).double(), atol=1e-9)


def test_a_line_keeps_the_sum() -> None:
    """(9, 1) with a steepest of 3: 3 to 1 of a sum of 10 is (7.5, 2.5); (2, 1) is 2 to 1 already."""
    values = {"keep": 1.0, "smooth": "line", "steepest": 3.0}
    got = merged(("dc_merge", values), [axes([0, 1], [9, 1]), axes([2, 3], [2, 1])])
    assert torch.allclose(got, torch.diag(torch.tensor([7.5, 2.5, 2, 1])).double(), atol=1e-9)


def test_few_entries_vote() -> None:
    """A core of 2 x 2 at keep 0.25: one entry a task. Weights 2 and -1, times a scale of 3: 3 * 10 and 3 * -4."""
    parts = [axes([0], [5], 2), axes([1], [4], 2)]
    got = merged(("dc_merge", {"keep": 0.25, "weight": (2.0, -1.0), "scale": 3.0}), parts)
    assert torch.allclose(got, torch.diag(torch.tensor([30.0, -12.0])).double(), atol=1e-9)


def test_zeros_copies_and_other_ranks_make_no_nan() -> None:
    """Null directions take no part; more ranks than sides are defined; nothing but zeros is zero."""
    first, second = updates(2, (4, 3), (3, 2))
    zero = Factors(torch.zeros_like(first.b), first.a)
    for parts in ([first, first], [first, zero], [first, second, first], [zero, zero]):
        found = made(("dc_merge", {"keep": 0.5}), parts)
        assert found.shape == (4, 3)
        assert bool(torch.isfinite(found.dense()).all())
    assert not merged(("dc_merge", {}), [zero, zero]).any()
    alone = merged(("dc_merge", {"keep": 1.0}), [second, Factors(second.b * 0, second.a)])
    s = torch.linalg.svdvals(second.dense())[:2]
    assert torch.allclose(torch.linalg.svdvals(alone)[:2], s.mean().expand(2), atol=1e-9)
