import math

import pytest
import torch

from tests.make.sites import merge, table

EXACT = pytest.mark.parametrize("exact", [False, True], ids=["shortcut", "exact"])
BASE = table([1, -2], [0.5, 4])


def tsv(deltas: list[torch.Tensor], **values: object) -> torch.Tensor:
    """Returns the merged delta."""
    base = BASE if deltas[0].shape == BASE.shape else torch.zeros_like(deltas[0])
    return merge(("tsv_m", values), [base + delta for delta in deltas], base) - base


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Returns random numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@EXACT
def test_by_hand(exact: bool) -> None:
    """Rank 2, two tasks, one triplet each: 4 e1 e1^T and 2 u e2^T with u = (3/5, 4/5).

    U = [e1 u] has U^T U = [1 3/5; 3/5 1], and the polar factor is [3 1; -1 3] / sqrt(10); V = [e1 e2] is orthonormal.
    So the delta is [3 1; -1 3] diag(4, 2) / sqrt(10) = [12 2; -4 6] / sqrt(10).
    """
    found = tsv([table([4, 0], [0, 0]), table([0, 1.2], [0, 1.6])], exact=exact)
    assert torch.allclose(found, table([12, 2], [-4, 6]) / math.sqrt(10), atol=1e-5)


@EXACT
def test_orthogonal_tasks_are_added(exact: bool) -> None:
    """diag(4, 1) and diag(1, 2) keep 4 e1 e1^T and 2 e2 e2^T, which do not meet: diag(4, 2)."""
    found = tsv([table([4, 0], [0, 1]), table([1, 0], [0, 2])], exact=exact)
    assert torch.allclose(found, table([4, 0], [0, 2]), atol=1e-5)


def test_weight_and_scale() -> None:
    """A weight multiplies a delta before its SVD, the scale the merged delta: 3 (diag(4 / 2, 0) + diag(0, 2 * 2))."""
    found = tsv([table([4, 0], [0, 1]), table([1, 0], [0, 2])], weight=(0.5, 2.0), scale=3.0)
    assert torch.allclose(found, table([6, 0], [0, 12]), atol=1e-5)


def test_without_whitening() -> None:
    """The cut deltas are added up: 4 e1 e1^T + 2 u e2^T."""
    found = tsv([table([4, 0], [0, 0]), table([0, 1.2], [0, 1.6])], whiten=False)
    assert torch.allclose(found, table([4, 1.2], [0, 1.6]), atol=1e-5)


@EXACT
def test_keep_all(exact: bool) -> None:
    """One task's directions are orthonormal already: the delta itself. Two opposite tasks cancel."""
    one = normal(7, 5)
    assert torch.allclose(tsv([one], keep="all", exact=exact), one, atol=1e-5)
    assert torch.allclose(tsv([one, -one], keep="all", exact=exact), torch.zeros(7, 5), atol=1e-5)


def test_more_tasks_than_rank() -> None:
    """No task keeps a triplet: the base stays, as in the authors' code."""
    assert (tsv([table([1, 2], [3, 4])] * 3) == 0).all()


@EXACT
def test_identical_tasks(exact: bool) -> None:
    """T equal tasks: the vectors of each shrink by sqrt(T) and add up to the cut of one."""
    one = normal(9, 12)
    u, s, vt = torch.linalg.svd(one, full_matrices=False)
    expected = (u[:, :3] * s[:3]) @ vt[:3]
    assert torch.allclose(tsv([one] * 3, exact=exact), expected, atol=1e-4)


@EXACT
def test_against_the_paper_in_float64(exact: bool) -> None:
    """Algorithm 1 written out with full SVDs in float64, on full-rank deltas of both orientations."""
    for shape in [(40, 24), (24, 40), (32, 32)]:
        deltas = [normal(*shape, seed=at) for at in range(4)]
        k = min(shape) // 4
        parts = [torch.linalg.svd(delta.double(), full_matrices=False) for delta in deltas]
        u = torch.cat([part.U[:, :k] for part in parts], 1)
        v = torch.cat([part.Vh[:k].T for part in parts], 1)
        s = torch.cat([part.S[:k] for part in parts])
        polars = [torch.linalg.svd(each, full_matrices=False) for each in (u, v)]
        expected = (polars[0].U @ polars[0].Vh * s) @ (polars[1].U @ polars[1].Vh).T
        assert (tsv(deltas, exact=exact) - expected).norm() < 1e-4 * expected.norm()
