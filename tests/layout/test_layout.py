import pytest

from eutectic.errors import MismatchError
from eutectic.layout.layout import with_block


def test_with_block() -> None:
    """Only the block's number changes, not an expert's."""
    name = "model.layers.3.mlp.experts.3.up_proj.weight"
    assert with_block(name, "model.layers", 11) == "model.layers.11.mlp.experts.3.up_proj.weight"
    assert with_block("h.0.ln_1.weight", "h", 2) == "h.2.ln_1.weight"


@pytest.mark.parametrize("name", ["model.norm.weight", "xmodel.layers.3.q", "model.layers.x.q", "model.layersX3.q"])
def test_with_block_elsewhere(name: str) -> None:
    """A name outside the stack is refused."""
    with pytest.raises(MismatchError, match=r"expected a tensor of a block in model\.layers"):
        with_block(name, "model.layers", 1)
