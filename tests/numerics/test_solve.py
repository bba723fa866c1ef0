import torch

from eutectic.numerics.solve import solve_gram


def test_is_the_inverse_where_there_is_one() -> None:
    """Also when channels differ by a factor of a million."""
    rows = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows *= torch.tensor([1e3, 1.0, 1e-3, 1.0, 10.0, 1.0])
    gram, right = rows.T @ rows, torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(gram @ solve_gram(gram, right), right, rtol=1e-9, atol=1e-9)


def test_is_the_least_solution_where_there_are_many() -> None:
    """Two equal channels share what one would have had; an unused channel gets nothing."""
    gram = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    solved = solve_gram(gram, torch.tensor([[2.0], [2.0], [5.0]], dtype=torch.float64))
    assert torch.allclose(solved, torch.tensor([[1.0], [1.0], [0.0]], dtype=torch.float64))


def test_nothing_at_all_solves_to_zero() -> None:
    """No rows, no answer: zero."""
    zero = torch.zeros(3, 3, dtype=torch.float64)
    assert not solve_gram(zero, torch.ones(3, 2, dtype=torch.float64)).any()
