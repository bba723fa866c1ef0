import pytest
from hypothesis import given
from hypothesis import strategies as st

from eutectic.recipe.document import MOST_NODES, DocumentError, compose, dump, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("null", None),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("007", 7),
        ("-3", -3),
        ("0x1F", 31),
        ("0o17", 15),
        (".5", 0.5),
        ("1e-3", 0.001),
        ("-.inf", float("-inf")),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("nan", "nan"),
        ("٣", "٣"),
    ],
)
def test_words_are_read_as_yaml_1_2(text: str, value: object) -> None:
    """Numbers, words and nothing, by YAML 1.2's core schema; dates and `no` stay words."""
    read = scalar(text)
    assert (type(read), read) == (type(value), value)


def test_lines_of_keys_and_entries() -> None:
    """Every key and entry knows its line; aliases stand for what they name."""
    (top,), errors = compose("a: &x\n  - 1\n  - 2\nb:\n  c: *x\n")
    assert errors == []
    assert top.plain() == {"a": [1, 2], "b": {"c": [1, 2]}}
    assert isinstance(top.value, dict)
    assert top.keys == {"a": 1, "b": 4}
    assert top.value["b"].keys == {"c": 5}


def test_json_with_tabs_is_yaml() -> None:
    """JSON is read by the same reader, also when it is indented with tabs."""
    assert compose('{\n\t"a": [1,\t"x"]\n}')[0][0].plain() == {"a": [1, "x"]}


def test_errors_one_can_read_past_are_collected() -> None:
    """A key twice, a key that is no text and a tag are told together."""
    _, errors = compose("a: 1\na: 2\n3: x\nb: !!python/object:os.system {}\n[c]: 1\n")
    assert [error.line for error in errors] == [2, 3, 4, 5]
    assert "first on line 1" in errors[0].text
    assert "found 3" in errors[1].text
    assert "python/object" in errors[2].text
    assert "a list" in errors[3].text


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a:\n\tb: 1", 2, "spaces, not tabs"),
        ("a: 1\nb: [", 2, "not YAML"),
        ("a: *x", 1, "nothing before it"),
        ("a: &x [*x]", 1, "nothing before it"),
        ("a: 1\nb: \x01", 2, "not YAML"),
        ('a: "\\Uffffffff"', 1, "not YAML"),
        ("[" * 100 + "]" * 100, 1, "levels"),
        ("[" * 200_000, 1, "levels"),
        ("a: " + "x" * 2**20, 1, "characters"),
        ("[" + "1," * (MOST_NODES + 1) + "]", 1, "values"),
    ],
)
def test_refusals(text: str, line: int, says: str) -> None:
    """What is no YAML, or no recipe could be, is an error with its line."""
    with pytest.raises(DocumentError, match=says) as caught:
        compose(text)
    assert caught.value.line == line


def test_aliases_that_multiply_are_refused() -> None:
    """Nine levels of nine aliases would be 400 million values; they are counted, never written out."""
    text = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
    with pytest.raises(DocumentError, match="aliases written out"):
        compose(text)


@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"%@`,#? \n\t01.\\ux\u00e9\ud800")))
def test_any_text_is_a_document_or_an_error(text: str) -> None:
    """No text makes the reader fail in another way."""
    line = 1
    try:
        compose(text)[0][0].plain()
    except DocumentError as error:
        line = error.line
    assert 1 <= line <= text.count("\n") + 2


def test_written_for_people() -> None:
    """Short values stand on one line, plain words without quotes, anything doubtful with them."""
    text = dump({"models": [{"model": "code/", "weight": [0, 0.5]}], "match": "*.q", "name": "1e3", "tie": ":0"})
    assert text.splitlines() == [
        "models:",
        "- model: code/",
        "  weight: [0, 0.5]",
        'match: "*.q"',
        'name: "1e3"',
        'tie: ":0"',
    ]
