import pytest

from eutectic.recipe.document import DocumentError, node_of
from eutectic.recipe.mergekit.settings import Condition, Setting, at, convert, layered, read_setting


def setting(data: object) -> Setting:
    """Reads plain data."""
    return read_setting(node_of(data))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (0.5, [(None, (0.5,))]),
        ([0, 1], [(None, (0, 1))]),
        ([], []),
        ({"filter": "mlp", "value": 1}, [("mlp", (1,))]),
        ([{"filter": "mlp", "value": [0, 1]}, {"value": 2}], [("mlp", (0, 1)), (None, (2,))]),
        ([{"filter": "*", "value": "x"}], [(None, ("x",))]),
        ({"value": True}, [(None, (True,))]),
    ],
)
def test_forms_of_a_setting(data: object, expected: list[tuple[str | None, tuple[object, ...]]]) -> None:
    """A scalar, a gradient, one condition or several; an empty list says nothing, `*` is no filter."""
    assert [(case.filter, case.values) for case in setting(data)] == expected


@pytest.mark.parametrize("data", [None, {"filter": "x"}, [0, {"value": 1}], {"filter": [1], "value": 1}, [[1]]])
def test_what_is_no_setting(data: object) -> None:
    """Nothing, a condition without a value, and mixtures are refused."""
    with pytest.raises(DocumentError, match="expected"):
        setting(data)


def test_the_first_scope_that_says_something_wins() -> None:
    """Conditions fall through to the next scope, an unconditional one ends the search."""
    inner = {"w": setting({"filter": "mlp", "value": 1}), "none": setting([])}
    outer = {"w": setting([{"filter": "norm", "value": 2}, {"value": 3}, {"value": 4}]), "none": setting(5)}
    assert [case.values for case in layered("w", [inner, outer])] == [(1,), (2,), (3,)]
    assert [case.values for case in layered("none", [inner, outer])] == [(5,)]
    assert layered("w", [{}, {}]) == ()


def test_values_are_converted_leniently() -> None:
    """Numbers in quotes, and YAML 1.1's words for true and false, mean what PyYAML's readers see."""
    assert convert(Condition(None, ("1e-5", True), 1), "float", "tol") == (1e-5, 1.0)
    assert convert(Condition(None, ("yes", 0, False), 1), "bool", "x") == (True, False, False)
    assert convert(Condition(None, (3.0,), 1), "int", "x") == (3,)
    for value, kind in ((float("nan"), "float"), ("x", "float"), (2, "bool"), (1.5, "int"), (10**400, "float")):
        with pytest.raises(DocumentError, match="x is "):
            convert(Condition(None, (value,), 7), kind, "x")  # type: ignore[arg-type]


def test_gradients_are_lines_between_evenly_spread_values() -> None:
    """[0, 1, 4] at 0, 1/4, 1/2, 3/4 and 1: 0, 0.5, 1, 2.5, 4."""
    assert [at((0.0, 1.0, 4.0), share) for share in (0, 0.25, 0.5, 0.75, 1)] == [0, 0.5, 1, 2.5, 4]
    assert at((3.0,), 1.0) == 3.0
