import json
from collections.abc import Callable

from tests.cli.conftest import Done

Cli = Callable[..., Done]


def test_a_model(cli: Cli) -> None:
    """21 tensors: 2 x 32 x 16 for the vocabulary, 2 blocks of 4 x 16 x 16 + 3 x 32 x 16 + 2 x 16, and a norm of 16."""
    done = cli("inspect", "base")
    assert done.code == 0
    assert done.out.startswith("base: 21 tensors, 6,224 elements, 12.2 KiB\n")
    assert "BF16 (21)" in done.out
    assert "2 in model.layers" in done.out
    assert "attention.query (2)" in done.out
    assert "q_proj" not in done.out


def test_every_tensor(cli: Cli) -> None:
    """--tensors lists name, type, shape, role and depth."""
    done = cli("inspect", "base", "--tensors")
    assert "model.layers.1.mlp.down_proj.weight  BF16 [16, 32]  mlp.down  depth 1.00\n" in done.out


def test_as_json(cli: Cli) -> None:
    """--json prints the same as data."""
    seen = json.loads(cli("inspect", "base", "--json").out)
    assert len(seen["tensors"]) == 21
    assert seen["tensors"]["lm_head.weight"]["role"] == "head.word"
    assert seen["tensors"]["lm_head.weight"]["shape"] == [32, 16]
    assert seen["stacks"] == {"model.layers": 2}
    assert not seen["deltas"]


def test_adapters(cli: Cli) -> None:
    """An adapter alone shows its differences; on a base, a whole model."""
    assert "2 tensors, 512 elements, 2.0 KiB, differences from a base" in cli("inspect", "style-lora").out
    assert cli("inspect", "base+style-lora").out.startswith("base+style-lora: 21 tensors")


def test_what_is_not_there(cli: Cli) -> None:
    """A path, a hub name with downloads off, an adapter that fits nothing: refused."""
    assert cli("inspect", "nowhere").code == 2
    offline = cli("inspect", "org/nowhere", "--offline")
    assert offline.code == 2
    assert "downloads are off" in offline.err
