import pytest
from hypothesis import given
from hypothesis import strategies as st

from eutectic.errors import RecipeError
from eutectic.quantities import format_bytes, format_seconds, parse_bytes

SIZES = {
    "1": 1,
    "1000": 1000,
    "256MiB": 256 << 20,
    "256 mib": 256 << 20,
    "4 GiB": 4 << 30,
    "5GB": 5 * 10**9,
    "5 G": 5 * 10**9,
    "500k": 500_000,
    "1.5 KiB": 1536,
    ".5 KiB": 512,
    " 2TB ": 2 * 10**12,
    "2TiB": 2 << 40,
    "17 B": 17,
}


@pytest.mark.parametrize("text", SIZES)
def test_sizes_that_people_write(text: str) -> None:
    """Decimal and binary units, in any case, with or without space and B."""
    assert parse_bytes(text) == SIZES[text]


def test_a_number_is_bytes() -> None:
    """As it is."""
    assert parse_bytes(4096) == 4096


@pytest.mark.parametrize("text", ["", " ", "GB", "4 XB", "-1 GB", "4 G i B", "1,5 GB", "1e9", "1.2.3", "4GiBs", "nan"])
def test_what_is_no_size(text: str) -> None:
    """The message shows what was found and an example."""
    with pytest.raises(RecipeError, match="expected a size such as '4 GiB' or '500MB', found"):
        parse_bytes(text)


@pytest.mark.parametrize("size", [0, -5, "0", "0 GiB", "0.1 B"], ids=repr)
def test_nothing_is_no_size(size: str | int) -> None:
    """A budget of nothing is a mistake."""
    with pytest.raises(RecipeError, match="above zero"):
        parse_bytes(size)


@pytest.mark.parametrize("size", [1 << 63, "8388608 TiB", "9" * 400], ids=["int", "text", "digits"])
def test_more_than_a_file_can_hold(size: str | int) -> None:
    """Sizes from 2**63 on are mistakes; the message stays short."""
    with pytest.raises(RecipeError, match=r"below 2\*\*63 bytes") as caught:
        parse_bytes(size)
    assert len(str(caught.value)) < 100


PRINTED = {
    0: "0 B",
    1023: "1023 B",
    1024: "1.0 KiB",
    1536: "1.5 KiB",
    100 << 10: "100 KiB",
    256 << 20: "256 MiB",
    3 << 30: "3.0 GiB",
    5 << 40: "5.0 TiB",
    5000 << 40: "5000.0 TiB",
    -2048: "-2.0 KiB",
}


@pytest.mark.parametrize("size", PRINTED)
def test_bytes_that_people_read(size: int) -> None:
    """The largest binary unit that keeps the number at or above one."""
    assert format_bytes(size) == PRINTED[size]


@given(st.integers(min_value=1, max_value=1 << 45))
def test_printed_sizes_are_read_back(size: int) -> None:
    """To the digits that are printed: a twentieth of the unit, or half a unit from a hundred on."""
    assert parse_bytes(format_bytes(size)) == pytest.approx(size, rel=0.05)


DURATIONS = {
    0.0: "0.0 s",
    0.44: "0.4 s",
    9.94: "9.9 s",
    12.3: "12 s",
    89.4: "89 s",
    90.0: "1 min 30 s",
    200.0: "3 min 20 s",
    65 * 60 + 5.0: "65 min 05 s",
    7500.0: "2 h 05 min",
    100_000.0: "27 h 46 min",
}


@pytest.mark.parametrize("seconds", DURATIONS)
def test_durations_that_people_read(seconds: float) -> None:
    """Seconds, then minutes, then hours."""
    assert format_seconds(seconds) == DURATIONS[seconds]


@pytest.mark.parametrize(("below", "above"), [(9.94, 9.999), (89.4, 89.9), (5399.4, 5399.9)])
def test_durations_at_the_edges(below: float, above: float) -> None:
    """Rounding up into the next unit does not print 10.0 s or 60 s of a minute."""
    assert not format_seconds(above).startswith(("10.0 s", "90 s", "90 min"))
    assert format_seconds(below) != format_seconds(above)
