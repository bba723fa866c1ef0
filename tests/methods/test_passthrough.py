import pytest
import torch

from eutectic.methods import get
from eutectic.methods.declare import exactly
from tests.make.sites import merge, table

#: What an option gives up of the declared laws, for tests/laws/test_methods.py.
LAWS_ASIDE = {"scale": {"fixed_point", "identity", "shift"}}  # half a model is not the model

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])


@FUSED
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bytes_are_kept(fused: bool, dtype: torch.dtype) -> None:
    """Nothing is rounded, and a negative zero stays negative."""
    model = torch.tensor([[1 / 3, -0.0, 0.0], [6e-8, 60000.0, -1.0]]).to(dtype)
    merged = merge(("passthrough", {}), [model], fused=fused)
    sized = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(merged.view(sized), model.view(sized))


@FUSED
def test_scale_by_hand(fused: bool) -> None:
    """Every element is multiplied."""
    merged = merge(("passthrough", {"scale": -0.5}), [table([1, 2, 3], [4, 5, 6])], fused=fused)
    assert merged.tolist() == [[-0.5, -1, -1.5], [-2, -2.5, -3]]


@FUSED
def test_zero_silences(fused: bool) -> None:
    """Scale 0 makes an output projection say nothing."""
    assert (merge(("passthrough", {"scale": 0.0}), [table([1, -2, 3], [4, 5, 6])], fused=fused) == 0).all()


@FUSED
def test_adapter(fused: bool) -> None:
    """A difference from the base passes as base + difference."""
    base = table([1, 2, 3], [4, 5, 6])
    assert merge(("passthrough", {}), [base], base, deltas=[True], fused=fused).tolist() == (2 * base).tolist()


def test_takes_one_model() -> None:
    """Recipes with more are refused by this declaration."""
    assert get("passthrough").needs.models == exactly(1)
