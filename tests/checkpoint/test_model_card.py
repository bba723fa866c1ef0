from pathlib import Path

import pytest
from ruamel.yaml import YAML

from eutectic.checkpoint.model_card import Parent, model_card, read_licence


def front(card: str) -> dict[str, object]:
    """Returns a card's front matter as a YAML parser reads it."""
    parsed = YAML(typ="safe").load(card.split("---\n")[1])
    assert isinstance(parsed, dict)
    return parsed


def test_card_of_hub_models() -> None:
    """Front matter for the hub: base models by id, tags, the licence all parents declare."""
    parents = [Parent("org/base@v1", "abc", "apache-2.0", base=True), Parent("org/code+x/lora", "def", "apache-2.0")]
    card = model_card("code-maths", "dare, then ties", "method: ties\n", parents)
    assert front(card) == {
        "base_model": ["org/base", "org/code"],
        "library_name": "transformers",
        "tags": ["merge", "eutectic"],
        "license": "apache-2.0",
    }
    assert "# code-maths\n\nMerged by dare, then ties" in card
    assert "| org/base@v1 | base | abc | apache-2.0 |" in card
    assert "```yaml\nmethod: ties\n```\n" in card


def test_different_licences_are_listed() -> None:
    """Where the parents differ, or one declares none, the card says so and claims none of them."""
    parents = [Parent("a|b/", licence="mit"), Parent("no", "r")]
    card = model_card("m", "linear", "x: ```\n", parents, library=None)
    assert front(card) == {
        "tags": ["merge", "eutectic"],
        "license": "other",
        "license_name": "licences-of-the-parents",
    }
    assert "| a\\|b/ | model | - | mit |" in card
    assert "| no | model | r | - |" in card
    assert "````yaml\nx: ```\n````" in card


def test_a_licence_of_ones_own_keeps_its_name() -> None:
    """`other` with a name is passed on as the hub wants it, quoted where YAML would misread it."""
    card = model_card("m", "linear", "", [Parent("a", licence="other: no")])
    assert front(card)["license"] == "other"
    assert front(card)["license_name"] == "no"


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [x]\n---\n# m", "apache-2.0"),
        ("---\r\nlicense: 'mit' # free\r\n---\r\n", "mit"),
        ("---\nlanguage: en\nlicense:\n- llama3\n---\n", "llama3"),
        ("---\nlicense: other\nlicense_name: gemma terms\n---\n", "other: gemma terms"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense:\ntags: []\n---\n", None),
        ("---\ntags: []\n---\nlicense: mit\n", None),
        ("# no front matter\nlicense: mit\n", None),
    ],
)
def test_read_licence(tmp_path: Path, readme: str, licence: str | None) -> None:
    """The licence is what the front matter declares, and nothing else."""
    (tmp_path / "README.md").write_bytes(readme.encode())
    assert read_licence(tmp_path) == licence


def test_no_card_no_licence(tmp_path: Path) -> None:
    """A folder without a readable card declares nothing."""
    assert read_licence(tmp_path) is None
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    assert read_licence(tmp_path) is None
