import math

import pytest
from pydantic import ValidationError

from eutectic.recipe.values import (
    EmaWeights,
    LinesScale,
    NanWeights,
    SmaWeights,
    WmaWeights,
    plain_value,
    read_number,
    read_text,
    read_value,
    show,
)


def test_equal_numbers_are_one_value() -> None:
    """1 and 1.0 are the same recipe; 0.1 stays what it is."""
    assert type(read_number(1.0)) is int
    assert read_number(0.1) == 0.1
    assert read_number(1e300) == 1e300


@pytest.mark.parametrize("raw", [True, "1", None, math.nan, math.inf, 10**400, [1]])
def test_what_is_no_finite_number(raw: object) -> None:
    """Booleans, words, NaN, infinities and numbers beyond float are refused."""
    with pytest.raises(ValueError, match="expected a"):
        read_number(raw)


@pytest.mark.parametrize("raw", ["", "  ", "a\nb", "a\x00", "x" * 5000, "\ud800", 3, None])
def test_what_is_no_text(raw: object) -> None:
    """Empty, unprintable and endless text is refused."""
    with pytest.raises(ValueError, match="expected"):
        read_text(raw)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (0.5, 0.5),
        (True, True),
        ("model", "model"),
        ([0, 0.5, 1.0], (0, 0.5, 1)),
        ("nan", NanWeights()),
        ({"nan": None}, NanWeights()),
        ({"nan": {"of": "delta", "per": "tensor", "scale": 2}}, NanWeights(of="delta", per="tensor", scale=2)),
        (NanWeights(scale=1), NanWeights(scale=1)),
        ({"lines": {"beta": 0.4}}, LinesScale(beta=0.4)),
        ({"lines": {"alpha": 0.5, "beta": 1}}, LinesScale(alpha=0.5, beta=1)),
        ("lines", "lines"),
        ("sma", SmaWeights()),
        ({"wma": {}}, WmaWeights()),
        ("ema", EmaWeights(decay=0.8)),
        ({"ema": {"decay": 0.999, "normalized": True}}, EmaWeights(decay=0.999, normalized=True)),
    ],
)
def test_forms_of_a_value(raw: object, value: object) -> None:
    """Each form is read, and written back to something that reads the same."""
    assert read_value(raw) == value
    assert read_value(plain_value(read_value(raw))) == value


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ([1], "two numbers or more"),
        ([1, "a"], "expected a number, found 'a'"),
        ({"nam": {}}, "did you mean 'nan'"),
        ({}, "source of coefficients"),
        ({"nan": {"of": "delt"}}, "did you mean 'delta'"),
        ({"nan": {"fo": "delta"}}, "unknown key 'fo'"),
        ({"nan": {"scale": "n"}}, "expected a number, found 'n'"),
        ({"nan": 3}, "expected a mapping, found 3"),
        ({"lines": {"alpha": 1}}, "expected the key 'beta', found none"),
        ({"lines": {"alpa": 1, "beta": 1}}, "did you mean 'alpha'"),
        ({"lines": {"alpha": "1/m", "beta": 1}}, "expected a number, found '1/m'"),
        ({"ema": {"decay": 1.5}}, "ema.decay: expected a number from 0 to 1, found 1.5"),
        ({"ema": {"decay": "slow"}}, "ema.decay: expected a number, found 'slow'"),
        ({"ema": {"alpha": 0.1}}, "unknown key 'alpha'"),
        ({"sma": {"n": 3}}, "unknown key 'n'"),
        (float("nan"), "without the dot"),
        (None, "found nothing"),
    ],
)
def test_refused_values(raw: object, says: str) -> None:
    """A message says what was expected and what was found."""
    with pytest.raises(ValueError, match=says):
        read_value(raw)


def test_a_value_cannot_be_changed() -> None:
    """Parts of a recipe are immutable."""
    with pytest.raises(ValidationError):
        NanWeights().of = "delta"


def test_show_is_short() -> None:
    """What was found is shown in at most 60 characters, whatever it is."""
    assert show([1] * 1000) == "a list"
    assert len(show("x" * 1000)) == 60
    assert show(10**5000) == "a number too long to print"
