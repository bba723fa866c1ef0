import pytest

from eutectic.recipe.document import node_of
from eutectic.recipe.mergekit.others import COMMANDS, recognise


@pytest.mark.parametrize(
    ("data", "tool"),
    [
        ({"base_model": "a", "experts": []}, "mergekit-moe"),
        ({"genome": {}, "tasks": []}, "mergekit-evolve"),
        ({"layer_slices": []}, "bakllama"),
    ],
)
def test_other_tools_are_recognised(data: object, tool: str) -> None:
    """By the keys that only they have."""
    found = recognise(node_of(data))
    assert found is not None
    assert tool in found


def test_what_is_no_other_tools() -> None:
    """Recipes of ours, of mergekit-yaml, and anything."""
    for data in ({"models": [], "method": "x"}, {"merge_method": "x", "experts": []}, [1], None):
        assert recognise(node_of(data)) is None


def test_commands_say_what_serves() -> None:
    """One sentence or two, no full stop at the end."""
    assert all(text and not text.endswith(".") for text in COMMANDS.values())
