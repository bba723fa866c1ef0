import pytest

from eutectic.recipe.document import DocumentError
from eutectic.recipe.mergekit.layers import Case, Region, Writer, escape, joined

WHOLE = [Region(0, None, before=True, behind=True)]
TWO = [Region(0, 2, before=True, behind=False), Region(2, 3, before=False, behind=True)]


def case(*values: float, filter: str | None = None, shift: int = 0) -> Case:  # noqa: A002
    """A case of line 7."""
    return Case(filter, values, shift, 7)


def test_a_constant_stands_with_the_step() -> None:
    """One value everywhere needs no rule."""
    writer = Writer(WHOLE, False)
    writer.write("m.w", {(0, "a"): (case(2),), (0, "b"): (case(2),)})
    assert (writer.steps, writer.models, writer.rules) == ({"m.w": 2}, {}, [])


def test_models_have_values_of_their_own() -> None:
    """Different values stand with the models."""
    writer = Writer(WHOLE, False)
    writer.write("m.w", {(0, "a"): (case(2),), (0, "b"): (case(0, 1),)})
    assert writer.models == {"a": {"m.w": 2}, "b": {"m.w": [0.0, 1.0]}}
    assert writer.rules == [{"blocks": "behind", "models": ["b"], "set": {"m.w": 0}}]
    assert writer.trapped


def test_mended_gradients_reach_their_end_behind_the_blocks() -> None:
    """Without the trap a gradient needs no rule over the whole model."""
    writer = Writer(WHOLE, True)
    writer.write("m.t", {(0, None): (case(0, 1),)})
    assert (writer.steps, writer.rules, writer.trapped) == ({"m.t": [0.0, 1.0]}, [], True)


def test_conditions_are_written_from_the_last_to_the_first() -> None:
    """Later rules win, so the first condition comes last."""
    writer = Writer(WHOLE, False)
    writer.write("m.t", {(0, None): (case(1, filter="mlp"), case(2, filter="m[0]"), case(3))})
    assert writer.steps == {"m.t": 3}
    assert writer.rules == [{"match": "*m[[]0]*", "set": {"m.t": 2}}, {"match": "*mlp*", "set": {"m.t": 1}}]


def test_gradients_of_slices_are_values_of_blocks() -> None:
    """[0, 1] over blocks 2 to 4 is 0, 0.5, 1; what lies behind takes the first value, mended the last."""
    for mend, behind in ((False, [("3", 0.5), ("4", 1.0)]), (True, [("3", 0.5), ("4,behind", 1.0)])):
        writer = Writer(TWO, mend)
        writer.write("m.w", {(0, "a"): (case(5),), (1, "a"): (case(0, 1),)})
        assert writer.sources == {(0, "a"): {"m.w": 5}, (1, "a"): {"m.w": 0}}
        assert [(rule["blocks"], rule["set"]["m.w"]) for rule in writer.rules] == behind


def test_conditions_of_slices_are_limited_to_their_blocks() -> None:
    """Before the blocks belongs to the first slice, behind to the last; alike conditions need no limit."""
    writer = Writer(TWO, False)
    writer.write("m.t", {(0, None): (case(1, filter="q"), case(2)), (1, None): (case(4, filter="q"), case(2))})
    assert [(rule["blocks"], rule["set"]["m.t"]) for rule in writer.rules] == [("before,0-1", 1), ("2-4,behind", 4)]
    writer = Writer(TWO, False)
    writer.write("m.t", {(0, None): (case(1, filter="q"), case(2)), (1, None): (case(1, filter="q"), case(2))})
    assert writer.rules == [{"match": "*q*", "set": {"m.t": 1}}]


def test_words_change_in_steps() -> None:
    """Two words over three blocks: the second in the last alone; without known blocks they are refused."""
    writer = Writer(TWO, False)
    writer.write("m.x", {(0, None): (Case(None, ("on",), 0, 7),), (1, None): (Case(None, ("on", "off"), 0, 7),)})
    assert writer.rules == [{"blocks": "4", "set": {"m.x": "off"}}]
    with pytest.raises(DocumentError, match="known number of blocks"):
        Writer(WHOLE, False).write("m.x", {(0, None): (Case(None, ("on", "off"), 0, 7),)})


def test_filters_that_name_a_block_follow_it() -> None:
    """Input block 3 is output block 5 when the slice renumbers by 2; other numbers are no blocks."""
    region = Region(4, 3, before=False, behind=False)
    assert case(1, filter="layers.3.mlp", shift=2).globs(region) == [("*layers.5.mlp*", "5")]
    assert case(1, filter="layers.1", shift=-6).globs(region) == [
        ("*layers.4.*", "4"), ("*layers.5.*", "5"), ("*layers.6.*", "6")
    ]  # fmt: skip
    assert case(1, filter="experts.3.", shift=2).globs(region) == [("*experts.3.*", None)]
    assert case(1, filter="layers.3.mlp").globs(region) == [("*layers.3.mlp*", None)]
    with pytest.raises(DocumentError, match=r"write layers\.N"):
        case(1, filter=".3.", shift=2).globs(region)


def test_other_modules_have_rules_of_their_own() -> None:
    """Everything is a rule on their names, the unconditional first."""
    writer = Writer(WHOLE, False, ("vision.*",))
    writer.write("m.w", {(0, "a"): (case(1, filter="mlp"), case(2)), (0, "b"): (case(3),)})
    assert writer.steps == {}
    assert writer.rules == [
        {"match": "vision.*", "models": ["a"], "set": {"m.w": 2}},
        {"match": "vision.*mlp*", "models": ["a"], "set": {"m.w": 1}},
        {"match": "vision.*", "models": ["b"], "set": {"m.w": 3}},
    ]


def test_rules_are_joined_where_order_allows() -> None:
    """Values of one selector come together, unless one would then stand before a rule that it must follow."""
    rules = [
        {"match": "*", "set": {"a": 1}}, {"match": "x", "set": {"b": 1}}, {"match": "*", "set": {"c": 1}},
        {"match": "*", "set": {"b": 2}},
    ]  # fmt: skip
    assert joined(rules) == [
        {"match": "*", "set": {"a": 1, "c": 1}}, {"match": "x", "set": {"b": 1}}, {"match": "*", "set": {"b": 2}}
    ]  # fmt: skip


def test_globs_are_plain_text() -> None:
    """What a glob would read is escaped."""
    assert escape("a*b?c[d]") == "a[*]b[?]c[[]d]"
