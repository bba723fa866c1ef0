"""KnOTS: shared columns, by hand and against the dense decomposition."""

import torch

from eutectic.adapters.factors import Factors
from tests.make.factors import made, merged, mixed, updates


def test_by_hand() -> None:
    """D_1 = (3,0)^T (1,0), D_2 = (0,2)^T (0,1): [D_1 | D_2] has singular values 3 and 2 and columns e1, e2.

    Coordinates: (3,0; 0,0) and (0,0; 0,2), up to the sign of each row.
    """
    parts = [
        Factors(torch.tensor([[3.0], [0.0]]).double(), torch.tensor([[1.0, 0.0]]).double()),
        Factors(torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[0.0, 1.0]]).double(), 2.0),
    ]
    found = made(("knots", {}), parts)
    assert torch.allclose(found.values.abs(), torch.tensor([[[3, 0], [0, 0]], [[0, 0], [0, 2]]]).double())
    assert torch.allclose(found.left.abs(), torch.eye(2).double())


def test_is_the_decomposition_of_the_dense_updates() -> None:
    """Rows of [P_1 | .. | P_n] are orthogonal, of the singular values' lengths, and U P_i = D_i; ranks may differ."""
    parts = updates(3, (7, 9), (2, 3, 1))
    found = made(("knots", {}), parts)
    joined = torch.cat([part.dense() for part in parts], 1)
    rows = torch.cat(list(found.values), 1)
    s = torch.linalg.svdvals(joined)[:6]
    assert torch.allclose(rows @ rows.T, torch.diag(s**2), atol=1e-9)
    for part, values in zip(parts, found.values, strict=True):
        assert torch.allclose(found.left @ values, part.dense(), atol=1e-9)


def test_sums_are_what_they_were() -> None:
    """With more ranks than rows, copies, and an update of zero; directions that nobody has are zero."""
    first, second = updates(2, (4, 3), (3,))
    parts = [first, second, first, Factors(torch.zeros_like(first.b), first.a)]
    expected = sum(part.dense() for part in parts)
    assert torch.allclose(merged(("knots", {}), parts), expected, atol=1e-9)  # type: ignore[arg-type]
    same = made(("knots", {}), [first, first])
    assert int((same.left.norm(dim=0) > 0.5).sum()) == 3
    wide = updates(2, (9, 2), (3,))  # rank 2 at most, of three columns
    assert torch.allclose(merged(("knots", {}), wide), wide[0].dense() + wide[1].dense(), atol=1e-9)
    assert made(("knots", {}), wide).values.shape == (2, 6, 2)


def test_votes_do_not_depend_on_the_split() -> None:
    """TIES in the shared columns sees updates, whatever their factors."""
    parts = updates(3)
    then = ("ties", {"density": 1.0})
    others = [mixed(part, seed) for seed, part in enumerate(parts)]
    assert torch.allclose(merged(("knots", {}), parts, then), merged(("knots", {}), others, then), atol=1e-8)
    assert not torch.allclose(merged(("knots", {}), parts, then), sum(part.dense() for part in parts))  # type: ignore[arg-type]
