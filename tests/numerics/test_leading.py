"""Leading eigenvalues, against a full decomposition."""

from collections.abc import Callable

import pytest
import torch

from eutectic.numerics.leading import DENSE, leading


def spectrum(size: int, values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A symmetric matrix with these eigenvalues."""
    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turn = torch.linalg.qr(drawn).Q
    return turn @ (values.unsqueeze(1) * turn.mT)


SPECTRA: dict[str, Callable[[int], torch.Tensor]] = {
    "falling": lambda size: 0.9 ** torch.arange(size, dtype=torch.float64),
    "flat": lambda size: 1 + torch.arange(size, dtype=torch.float64) / size,
    "signed": lambda size: torch.linspace(-3, 1, size, dtype=torch.float64),
    "negative": lambda size: torch.linspace(-3, -1, size, dtype=torch.float64),
    "few": lambda size: torch.cat([torch.tensor([5.0, 4.0, -7.0]), torch.zeros(size - 3)]).double(),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("size", [1, 7, 60, DENSE + 200])
def test_against_a_full_decomposition(name: str, size: int) -> None:
    """The same values, and vectors that the matrix takes to their multiples, at right angles to one another."""
    if name == "few" and size < 3:
        pytest.skip("has three")
    matrix = spectrum(size, SPECTRA[name](size))
    values, vectors = leading(lambda x: matrix @ x, size, 3)
    count = min(3, size)
    expected = torch.linalg.eigvalsh(matrix).flip(0)[:count]
    largest = float(torch.linalg.eigvalsh(matrix).abs().max())
    assert torch.allclose(values, expected, atol=1e-8 * largest)
    assert torch.allclose(matrix @ vectors, vectors * values, atol=1e-8 * largest)
    assert torch.allclose(vectors.mT @ vectors, torch.eye(count, dtype=torch.float64), atol=1e-9)


def test_it_is_a_function_of_the_matrix() -> None:
    """Whatever has been drawn before."""
    matrix = spectrum(500, SPECTRA["signed"](500))
    first = leading(lambda x: matrix @ x, 500, 2)[1]
    torch.randn(7)
    assert torch.equal(leading(lambda x: matrix @ x, 500, 2)[1], first)


def test_nothing() -> None:
    """The matrix of zeros has any vectors."""
    values, vectors = leading(torch.zeros_like, 600, 2)
    assert values.tolist() == [0, 0]
    assert torch.allclose(vectors.mT @ vectors, torch.eye(2, dtype=torch.float64))
