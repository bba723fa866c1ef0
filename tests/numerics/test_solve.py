import torch

from eutectic.numerics.solve import gram_rows, solve_gram


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


def test_rows_of_a_gram_matrix() -> None:
    """Rows that have the same products, no more than there were; repeated and unused ones add none."""
    rows = torch.randn(6, 40, generator=torch.Generator().manual_seed(2))
    rows[3] = 2 * rows[1]
    rows[:, 7] = 0
    gram = rows.T @ rows
    found = gram_rows(gram, 6, 1e-6)
    assert found.shape == (5, 40)
    assert torch.allclose((found.T @ found).float(), gram, atol=1e-4)
    assert gram_rows(gram, 2).shape == (2, 40)


def test_no_rows() -> None:
    """Of nothing, and of no width."""
    assert gram_rows(torch.zeros(4, 4), 3).shape == (0, 4)
    assert gram_rows(torch.zeros(0, 0), 3).shape == (0, 0)
