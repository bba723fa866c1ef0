import pytest

from eutectic.layout.roles import Role


@pytest.mark.parametrize(
    ("pattern", "role", "expected"),
    [
        ("attention.*", Role.QUERY, True),
        ("attention", Role.QUERY, True),
        ("attention", Role.ATTENTION_NORM, True),
        ("norm", Role.NORM, True),
        ("norm", Role.ATTENTION_NORM, False),
        ("*norm", Role.ATTENTION_NORM, True),
        ("embedding", Role.POSITION, True),
        ("embedding.word", Role.POSITION, False),
        ("expert", Role.SHARED_UP, False),
        ("*expert", Role.SHARED_UP, True),
        ("mlp.gat", Role.GATE, False),
    ],
)
def test_matches(pattern: str, role: Role, expected: bool) -> None:
    """A pattern is a glob on the whole role, or names a branch."""
    assert role.matches(pattern) is expected


def test_roles_read_as_their_text() -> None:
    """A role prints and compares as what a recipe writes."""
    assert f"{Role.EXPERT_GATE_UP}" == "expert.gate_up"
    assert Role("head.word") is Role.HEAD
