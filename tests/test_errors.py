import inspect

import pytest

from eutectic import errors
from eutectic.errors import EutecticError, OverBudget, nearest

ERRORS = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, Exception)]


@pytest.mark.parametrize("error", ERRORS)
def test_one_tree(error: type[Exception]) -> None:
    """Whoever catches EutecticError catches all, and the tree in the docstring shows each."""
    assert issubclass(error, EutecticError)
    assert error.__name__ in (errors.__doc__ or "")
    assert inspect.getdoc(error)


def test_over_budget_says_how_much() -> None:
    """The least budget that works is data, not only text."""
    error = OverBudget("too little", 1 << 30)
    assert str(error) == "too little"
    assert error.needed == 1 << 30


@pytest.mark.parametrize(
    ("name", "expected"),
    [("densty", "; did you mean 'density'?"), ("wieght", "; did you mean 'weight'?"), ("xyz", ""), ("", "")],
)
def test_nearest(name: str, expected: str) -> None:
    """A typo finds its word; what is like none of them suggests nothing."""
    assert nearest(name, ["density", "weight", "scale"]) == expected


def test_nearest_of_nothing() -> None:
    """No words, no suggestion; any iterable will do."""
    assert nearest("x", []) == ""
    assert nearest("tie", iter({"ties": 1})) == "; did you mean 'ties'?"
