import pytest
import torch

from eutectic.methods import get
from tests.make.sites import merge, table

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
BASE = table([1, 1, 1], [1, 1, 1])


@FUSED
def test_by_hand(fused: bool) -> None:
    """With t = 0.5: deltas up to 0.5 are taken, longer ones cut to 0.5 towards the model."""
    model = BASE + table([0.25, -0.5, 2], [-3, 0, 0.75])
    expected = BASE + table([0.25, -0.5, 0.5], [-0.5, 0, 0.5])
    assert torch.equal(merge(("nearswap", {"t": 0.5}), [model], BASE, fused=fused), expected)


@FUSED
def test_as_a_share(fused: bool) -> None:
    """It is mergekit's interpolation: share min(1, t / |a - b|) of the model, the rest of the base."""
    source = torch.Generator().manual_seed(0)
    base, model = (torch.randn(50, 20, generator=source) for _ in range(2))
    share = (0.3 / (base - model).abs()).clamp(0, 1)
    found = merge(("nearswap", {"t": 0.3}), [model], base, fused=fused)
    assert torch.allclose(found, share * model + (1 - share) * base, atol=1e-6)


@FUSED
def test_extremes(fused: bool) -> None:
    """With t = 0 it is the base; a t beyond all distances is the model; what is not a number is seen."""
    model = table([2, 0, -1], [4, float("nan"), 1])
    base, whole = (merge(("nearswap", {"t": t}), [model], BASE, fused=fused) for t in (0.0, 100.0))
    for found, expected in ((base, BASE), (whole, model)):
        assert found[1, 1].isnan()
        assert torch.equal(found.nan_to_num(), expected.where(~model.isnan(), 0.0))


def test_takes_one_and_a_base() -> None:
    """The base is the one it starts from."""
    needs = get("nearswap").needs
    assert (needs.base, str(needs.models)) == (True, "exactly 1")
