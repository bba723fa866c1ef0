import numpy as np
import pytest
import torch

from eutectic.numerics import kernels, rowloops
from eutectic.numerics.draw import Key
from eutectic.numerics.kernels import CODES, Rows
from eutectic.numerics.loops import BLOCK

EPS = 1e-8


def rows_of(base: torch.Tensor, model: torch.Tensor) -> Rows:
    """Returns a slice of two float64 rows."""
    raw = np.concatenate([base.numpy().reshape(-1), model.numpy().reshape(-1)]).view(np.uint8)
    codes = np.full(2, CODES["F64"])
    return Rows(
        raw,
        np.array([0, base.numel() * 8]),
        codes,
        np.zeros(1, np.bool_),
        True,
        0,
        base.numel(),
        Key(0, "w"),
        double=True,
    )


def expected(base: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """The definition, with the library's exponentials and logarithms."""
    p, q = (torch.softmax(each, -1) + EPS for each in (model, base))
    return (p * (p / q).log()).sum(-1)


@pytest.mark.parametrize("width", [1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5, rowloops.KEPT_WIDTH + 3])
@pytest.mark.parametrize("apart", [1e-3, 0.05, 3.0])
def test_definition(width: int, apart: float) -> None:
    """Rows of any length, kept or computed again, near to the base or far from it."""
    source = torch.Generator().manual_seed(width)
    base = torch.randn(3, width, generator=source, dtype=torch.float64)
    model = base + apart * torch.randn(3, width, generator=source, dtype=torch.float64)
    found = kernels.divergence(rows_of(base, model), width, EPS)
    np.testing.assert_allclose(found, expected(base, model).numpy(), rtol=1e-7, atol=1e-14)
    assert (found >= 0).all()


def test_numbers_out_of_range_of_the_exponential() -> None:
    """A softmax does not mind what is added to a row, nor how large the numbers are."""
    source = torch.Generator().manual_seed(0)
    base = torch.randn(4, 50, generator=source, dtype=torch.float64)
    model = base + torch.randn(4, 50, generator=source, dtype=torch.float64)
    usual = kernels.divergence(rows_of(base, model), 50, EPS)
    for added in (-5000.0, -650.0, 650.0, 1e5):
        np.testing.assert_allclose(kernels.divergence(rows_of(base + added, model - added), 50, EPS), usual, rtol=1e-6)
    huge = kernels.divergence(rows_of(1e30 * base, 1e30 * model), 50, EPS)
    np.testing.assert_allclose(huge, expected(1e30 * base, 1e30 * model).numpy(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("what", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_seen(what: float) -> None:
    """A row with a NaN or an infinity has no divergence; its neighbours have theirs."""
    base = torch.randn(3, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = base.clone()
    model[1, 4] = what
    found = kernels.divergence(rows_of(base, model), 9, EPS)
    assert np.isnan(found).tolist() == [False, True, False]
    assert found[0] == found[2] == 0


def test_exponentials() -> None:
    """Each is right to 2e-13 of itself, most of which is the rounding of arguments up to 690."""
    w = np.linspace(-690, 690, BLOCK)
    s = np.zeros(rowloops.SCRATCH)
    rowloops.exponentials(w, 0, 0.0, s, rowloops.PAIRS)
    np.testing.assert_allclose(s[rowloops.PAIRS : rowloops.PAIRS + BLOCK], np.exp(w), rtol=2e-13)
