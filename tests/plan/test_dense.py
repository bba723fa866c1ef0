from typing import Any

import pytest
import torch

from eutectic.checkpoint.source import Checkpoint
from eutectic.errors import MismatchError
from eutectic.plan.dense import Sorted, dense_sites
from eutectic.plan.factored import layout_of
from eutectic.recipe.parse import read_recipe
from tests.make.memory import checkpoint

TENSORS = {
    "embed_tokens.weight": torch.ones(32, 8),
    "layers.0.q_proj.weight": torch.ones(6, 8),
    "layers.0.q_proj.bias": torch.ones(6),
    "layers.0.conv.weight": torch.ones(4, 3, 2, 2),
    "layers.0.experts.up": torch.ones(3, 6, 8),
    "norm.weight": torch.ones(8),
}


def sort(tensors: dict[str, torch.Tensor], base: Checkpoint | None = None, **output: Any) -> Sorted:
    """Sorts what a model changed."""
    delta = checkpoint(tensors, deltas=True)
    rules = [{"match": "*kept*", "keep": "base"}]
    chosen = {"models": ["m"], "base": "b", "method": "task_arithmetic", "rules": rules}
    recipe = read_recipe(chosen | {"output": {"form": "adapter", "rank": 2} | output})
    return dense_sites(recipe, [delta], base, layout_of([delta], {}))


def test_matrices_become_factors_and_the_rest_is_saved() -> None:
    """Linear layers, convolutions and embeddings; biases of modules with factors are beside their base layer."""
    found = sort(TENSORS, rest="save")
    assert {site.key: (site.shape, site.kernel, site.embedding) for site in found.sites} == {
        "embed_tokens": ((8, 32), (), True),
        "layers.0.q_proj": ((6, 8), (), False),
        "layers.0.conv": ((4, 12), (2, 2), False),
    }
    assert found.saved == {
        "base_model.model.layers.0.q_proj.base_layer.bias": "layers.0.q_proj.bias",
        "base_model.model.layers.0.experts.up": "layers.0.experts.up",
        "base_model.model.norm.weight": "norm.weight",
    }
    assert (found.modules, found.biases) == (["layers.0.experts", "norm"], True)


def test_the_rest_is_refused_or_dropped() -> None:
    """All of it is listed."""
    with pytest.raises(MismatchError, match=r"(?s)q_proj\.bias.*experts\.up.*norm\.weight.*rest: save"):
        sort(TENSORS)
    dropped = sort(TENSORS, rest="drop")
    assert [each.name for each in dropped.dropped] == ["layers.0.q_proj.bias", "layers.0.experts.up", "norm.weight"]
    assert not dropped.saved


def test_conv1d_is_known_by_its_biases() -> None:
    """Where biases have as many values as columns, weights are stored (in, out), square ones too."""
    base = checkpoint(
        {
            "h.0.c_fc.weight": torch.ones(4, 6),
            "h.0.c_fc.bias": torch.ones(6),
            "h.0.c_proj.weight": torch.ones(4, 4),
            "h.0.c_proj.bias": torch.ones(4),
        }
    )
    found = sort({"h.0.c_fc.weight": torch.ones(4, 6), "h.0.c_proj.weight": torch.ones(4, 4)}, base)
    assert [(site.shape, site.transposed) for site in found.sites] == [((6, 4), True), ((4, 4), True)]
    assert found.sites[0].matrix_shape == (4, 6)


def test_what_a_rule_keeps_is_no_difference() -> None:
    """Nor is it anything to refuse."""
    found = sort({"kept.weight": torch.ones(8), "q.weight": torch.ones(3, 4)})
    assert [site.name for site in found.sites] == ["q.weight"]
