"""Singular vectors by shortcut against the library's SVD in float64, and what happens where directions are missing."""

import math

import pytest
import torch

from eutectic.numerics.spectra import Svd, _quick, effective_rank, gram, isotropic, polar, procrustes, svd, times

SHAPES = [(1, 1), (5, 5), (40, 7), (7, 40), (2100, 30), (64, 64)]
EACH = pytest.mark.parametrize("shape", SHAPES, ids=str)


def decaying(*shape: int, seed: int = 0, least: float = 1e-2, rank: int | None = None) -> torch.Tensor:
    """Returns a float32 matrix whose singular values fall evenly in logarithm from 1 to `least`, then to nothing."""
    source = torch.Generator().manual_seed(seed)
    count = min(shape)
    u, v = (torch.linalg.qr(torch.randn(side, count, generator=source, dtype=torch.float64)).Q for side in shape)
    s = torch.logspace(0, math.log10(least), count, dtype=torch.float64)
    s[count if rank is None else rank :] = 0
    return ((u * s) @ v.T).float()


def whole(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the library's SVD in float64."""
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u, s, vt.T


def orthonormal(columns: torch.Tensor) -> bool:
    """Whether the columns are orthonormal to float32."""
    eye = torch.eye(columns.shape[1], dtype=torch.float64)
    return bool(((columns.double().T @ columns.double()) - eye).abs().max() < 1e-5)


@EACH
@pytest.mark.parametrize("exact", [False, True], ids=["gram", "plain"])
def test_svd(shape: tuple[int, int], exact: bool) -> None:
    """Values agree to float32, vectors are orthonormal, and the product is the matrix."""
    matrix = decaying(*shape)
    found = svd(matrix, exact=exact)
    _, s, _ = whole(matrix)
    assert torch.allclose(found.s.double(), s, rtol=2e-5, atol=0)
    assert orthonormal(found.u)
    assert orthonormal(found.v)
    assert torch.allclose(found.matrix, matrix, rtol=0, atol=2e-6)
    assert (found.u.dtype, found.s.dtype) == (torch.float32, torch.float32)


@EACH
def test_the_leading_triplets(shape: tuple[int, int]) -> None:
    """`most` cuts to the best approximation of that rank: what is left is the rest of the spectrum."""
    matrix = decaying(*shape)
    most = min(shape) // 2
    found = svd(matrix, most)
    _, s, _ = whole(matrix)
    assert len(found.s) == most
    rest = (matrix.double() - found.matrix.double()).norm()
    assert rest == pytest.approx(float(s[most:].norm()), rel=1e-4, abs=1e-6)


QUICK = pytest.mark.parametrize("shape", [(256, 256), (700, 300), (300, 700)], ids=str)


@QUICK
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e25])
def test_the_quick_way(shape: tuple[int, int], size: float) -> None:
    """Of a spectrum down to a hundredth the leading eighth is nearly the exact one, of any size."""
    matrix = decaying(*shape) * size
    most = min(shape) // 6
    quick = _quick(matrix if shape[0] >= shape[1] else matrix.T, most)
    assert quick is not None
    found = svd(matrix, most)
    u, s, v = whole(matrix)
    assert torch.allclose(found.s.double(), s[:most], rtol=1e-5, atol=0)
    assert orthonormal(found.u)
    assert orthonormal(found.v)
    expected = (u[:, :most] * s[:most]) @ v[:, :most].T
    assert float((found.matrix.double() - expected).norm() / expected.norm()) < 1e-4
    assert torch.equal(found.u, svd(matrix, most).u)


def test_where_the_quick_way_does_not_go() -> None:
    """Steep spectra, more than half of the directions, few columns, nothing, and numbers that are not finite."""
    matrix = decaying(400, 300)
    assert _quick(matrix, 151) is None
    assert _quick(matrix[:, :250], 20) is None
    assert _quick(decaying(400, 300, least=1e-6), 140) is None
    assert _quick(torch.zeros(400, 300), 20) is None
    for bad in (math.nan, math.inf):
        broken = matrix.clone()
        broken[3, 5] = bad
        assert _quick(broken, 20) is None
        assert svd(broken, 20).u.isnan().all()
    steep = decaying(400, 300, least=1e-6)
    _, s, _ = whole(steep)
    assert torch.allclose(svd(steep, 140).s.double(), s[:140], rtol=1e-4, atol=0)


@pytest.mark.parametrize("least", [1e-1, 1e-2, 1e-3, 1e-4, 1e-6])
def test_the_stated_error(least: float) -> None:
    """The Gram way in float64 loses about 1e-16 (s_1 / s_i)^2 of a value: at 1e-4 of the largest still next to nothing.

    The bound of the test is that, with room for the size of the matrix, and 8 roundings of float32, in which the values
    are returned. A direction of a millionth is still there.
    """
    matrix = decaying(300, 120, least=least)
    _, s, _ = whole(matrix)
    found = svd(matrix)
    assert len(found.s) == 120
    assert ((found.s.double() - s).abs() / s).max() < 8 * 2**-24 + 4e-16 / least**2


@pytest.mark.parametrize("exact", [False, True], ids=["gram", "plain"])
@pytest.mark.parametrize("rank", [0, 1, 9])
@pytest.mark.parametrize("shape", [(30, 12), (12, 30)], ids=str)
def test_null_directions_are_dropped(shape: tuple[int, int], rank: int, exact: bool) -> None:
    """A matrix of rank k has k triplets, and its polar factor k directions, whatever is asked for."""
    matrix = decaying(*shape, rank=rank)
    assert len(svd(matrix, exact=exact).s) == rank
    assert len(svd(matrix, 3, exact=exact).s) == min(rank, 3)
    factor = polar(matrix, exact=exact)
    assert factor.double().norm() ** 2 == pytest.approx(rank, abs=1e-4)
    assert len(svd(isotropic(matrix, exact=exact)).s) == rank


def test_what_a_difference_cannot_tell_from_nothing() -> None:
    """Values up to `least` are dropped too."""
    assert len(svd(torch.diag(torch.tensor([4.0, 2.0, 1.0])), least=1.0).s) == 2
    assert len(svd(torch.diag(torch.tensor([4.0, 2.0, 1.0])), least=1.0, exact=True).s) == 2


@pytest.mark.parametrize("exact", [False, True], ids=["gram", "plain"])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)], ids=str)
def test_nothing(shape: tuple[int, int], exact: bool) -> None:
    """Empty matrices have no triplets."""
    empty = torch.zeros(shape)
    assert svd(empty, exact=exact).s.shape == (0,)
    assert svd(torch.ones(3, 3), 0, exact=exact).u.shape == (3, 0)
    assert polar(empty, exact=exact).shape == shape
    assert isotropic(empty, exact=exact).shape == shape


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("exact", [False, True], ids=["gram", "plain"])
def test_what_is_not_finite_is_seen(exact: bool, bad: float) -> None:
    """One NaN or infinity makes everything NaN, and nothing raises."""
    matrix = decaying(6, 4)
    matrix[2, 1] = bad
    found = svd(matrix, 2, exact=exact)
    assert found.u.shape == (6, 2)
    for each in (found.u, found.s, found.v, polar(matrix, exact=exact), isotropic(matrix, exact=exact)):
        assert each.isnan().all()


@EACH
@pytest.mark.parametrize("exact", [False, True], ids=["gram", "plain"])
def test_polar(shape: tuple[int, int], exact: bool) -> None:
    """U V^T of the float64 SVD; and with every value at the mean."""
    matrix = decaying(*shape)
    u, s, v = whole(matrix)
    assert torch.allclose(polar(matrix, exact=exact).double(), u @ v.T, rtol=0, atol=2e-5)
    assert torch.allclose(isotropic(matrix, exact=exact).double(), s.mean() * (u @ v.T), rtol=0, atol=2e-5)


def test_double_precision_is_kept() -> None:
    """float64 matrices go the plain way: small values are as good as large ones."""
    matrix = decaying(20, 10).double()
    assert svd(matrix).u.dtype == torch.float64
    assert torch.allclose(svd(matrix).matrix, matrix, rtol=0, atol=1e-14)
    assert torch.allclose(polar(matrix) @ polar(matrix).T @ matrix, matrix, rtol=0, atol=1e-12)


def test_procrustes() -> None:
    """A rotation is found again."""
    moving = decaying(30, 6).double()
    turn = torch.linalg.qr(decaying(6, 6, seed=1).double()).Q
    assert torch.allclose(procrustes(moving, moving @ turn), turn, rtol=0, atol=1e-10)


def test_effective_rank() -> None:
    """Equal values count one each; one value counts one; none, nothing. (1/2, 1/4, 1/4) has entropy 1.5 ln 2."""
    assert effective_rank(torch.tensor([3.0, 3.0, 3.0, 3.0])) == pytest.approx(4)
    assert effective_rank(torch.tensor([5.0, 0.0])) == pytest.approx(1)
    assert effective_rank(torch.tensor([4.0, 2.0, 2.0])) == pytest.approx(2**1.5)
    assert effective_rank(torch.zeros(3)) == 0
    assert effective_rank(torch.zeros(0)) == 0


def test_gram_and_times() -> None:
    """Products in float64 of float32 matrices taller than what is widened at once."""
    matrix = decaying(2500, 21)
    assert torch.allclose(gram(matrix), matrix.double().T @ matrix.double(), rtol=0, atol=1e-14)
    assert torch.equal(gram(matrix), gram(matrix).T)
    right = torch.randn(21, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(times(matrix, right), matrix.double() @ right, rtol=0, atol=1e-14)


def test_product_of_no_triplets() -> None:
    """The sum of none is zero."""
    none = Svd(torch.zeros(3, 0), torch.zeros(0), torch.zeros(2, 0))
    assert torch.equal(none.matrix, torch.zeros(3, 2))
