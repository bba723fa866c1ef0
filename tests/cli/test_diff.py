import json
from collections.abc import Callable

from tests.cli.conftest import Done

Cli = Callable[..., Done]


def test_a_model_and_itself(cli: Cli) -> None:
    """All tensors equal, no table."""
    assert cli("diff", "base", "base") == Done(0, "21 tensors compared, 21 equal; distance 0 in all\n", "")


def test_what_changed_most(cli: Cli) -> None:
    """The adapter changes the two query projections; --top shows the first."""
    done = cli("diff", "base", "base+style-lora", "--top", "1")
    assert done.code == 0
    assert done.out.startswith("21 tensors compared, 19 equal; distance ")
    assert done.out.count("self_attn.q_proj.weight") == 1


def test_as_json(cli: Cli) -> None:
    """Largest relative distance first; no NaN, which JSON lacks."""
    found = json.loads(cli("diff", "base", "code", "--json").out)
    assert len(found) == 21
    relative = [each["relative"] for each in found]
    assert relative == sorted(relative, reverse=True)
    assert set(found[0]) == {"name", "distance", "relative", "cosine", "why"}


def test_what_cannot_be_compared(cli: Cli) -> None:
    """A full model and an adapter share two names; the others are named with the reason."""
    done = cli("diff", "base", "style-lora")
    assert done.code == 0
    assert done.out.startswith("2 tensors compared, 0 equal")
    assert "lm_head.weight: " in done.out
    assert json.loads(cli("diff", "base", "style-lora", "--json").out)[-1]["cosine"] is None


def test_a_missing_model(cli: Cli) -> None:
    """Refused with its name."""
    done = cli("diff", "base", "nowhere")
    assert (done.code, done.out) == (2, "")
    assert "nowhere" in done.err
