import pytest
import torch
from torch import Tensor, nn

from eutectic.calibrate.observe import Collector, sites
from eutectic.errors import CalibrationError
from eutectic.stats.fold import Sees
from eutectic.stats.inputs import InputGram, InputMoments

GRAM, MOMENTS = InputGram(), InputMoments()


def gram(module: nn.Module, *given: Tensor, masks: tuple[Tensor, ...] = ()) -> dict[str, Tensor]:
    """The Gram matrices at a module's parameters."""
    names = [name for name, _ in module.named_parameters()]
    collector = Collector({name: [GRAM] for name in names}, "m")
    handles = collector.attach(module, "")
    collector.begin(masks)
    with torch.no_grad():
        module(*given)
    for handle in handles:
        handle.remove()
    found = collector.take(names, GRAM)
    return {name: o.result for name, o in found.items() if o.result is not None}


def inner(rows: Tensor) -> Tensor:
    """X^T X."""
    return rows.mT @ rows


def test_a_linear_map_is_shown_its_rows() -> None:
    """Of any number of axes; without those a mask leaves out, also when they come flattened."""
    x = torch.randn(2, 3, 4)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    linear = nn.Linear(4, 5)
    assert torch.allclose(gram(linear, x)["weight"], inner(x.reshape(-1, 4)), atol=1e-5)
    for given in (x, x.reshape(6, 4)):
        assert torch.allclose(gram(linear, given, masks=(mask,))["weight"], inner(x[mask]), atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, "same"])
def test_a_convolution_is_a_map_of_patches(groups: int, padding: int | str) -> None:
    """Its output is its weight, as a matrix, times the patches that the statistic sees."""
    conv = nn.Conv2d(4, 6, 3, padding=padding, groups=groups, bias=False)  # type: ignore[arg-type]
    x = torch.randn(2, 4, 7, 5)
    (site,) = sites(conv, "conv")
    rows = site.rows((x,)).reshape(groups, -1, 36 // groups)
    weight = conv.weight.reshape(groups, 6 // groups, -1)
    out = torch.einsum("grw,gow->rgo", rows, weight).reshape(2, -1, 6).transpose(1, 2).reshape(conv(x).shape)
    assert torch.allclose(out, conv(x), atol=1e-5)
    expected = inner(rows)
    assert torch.allclose(gram(conv, x)["weight"], expected if groups > 1 else expected[0], atol=1e-4)


def test_a_convolution_over_time() -> None:
    """One axis of space, with strides and gaps."""
    conv = nn.Conv1d(3, 4, 3, stride=2, padding=1, dilation=2, bias=False)
    x = torch.randn(2, 3, 11)
    (site,) = sites(conv, "conv")
    rows = site.rows((x,))
    assert torch.allclose((rows @ conv.weight.reshape(4, -1).T).transpose(1, 2), conv(x), atol=1e-5)


def test_a_packed_attention_input() -> None:
    """One Gram matrix for query, key and value; different inputs for them are refused."""
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    x = torch.randn(2, 3, 4)
    found = gram(attention, x, x, x)
    assert torch.allclose(found["in_proj_weight"], inner(x.reshape(-1, 4)), atol=1e-5)
    with pytest.raises(CalibrationError, match="packed attention"):
        gram(attention, x, x.clone(), x)


class Rms(nn.Module):
    """A norm as decoders write it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.tensor([0.0, 2.0, -1.0])), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        """Scaled by the root of the mean square."""
        out: Tensor = self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return out


Rms.__name__ = "AnyRMSNorm"
NORMS = {
    "layer": (nn.LayerNorm(3), torch.randn(4, 5, 3), -1),
    "rms": (Rms(), torch.randn(4, 5, 3), -1),
    "batch": (nn.BatchNorm2d(3).eval(), torch.randn(2, 3, 4, 4), 1),
    "group": (nn.GroupNorm(1, 3), torch.randn(2, 3, 4, 4), 1),
}


@pytest.mark.parametrize("kind", NORMS)
def test_scales_are_shown_what_they_multiply(kind: str) -> None:
    """Found without dividing by the scale, which may be zero: the norm's output with its scale at one and no shift."""
    module, x, axis = NORMS[kind]
    collector = Collector({"weight": [MOMENTS]}, "m")
    collector.attach(module, "")
    collector.begin(())
    with torch.no_grad():
        module(x)
        found = collector.take(["weight"], MOMENTS)["weight"].result
        module.weight.fill_(1.0)
        plain = module(x).movedim(axis, -1).reshape(-1, 3)
    assert found is not None
    assert torch.allclose(found, torch.stack([plain.sum(0), plain.square().sum(0)]), atol=1e-4)
    assert sites(module, "n")[0].sees is Sees.NORMALISED


def test_layers_without_inputs_to_show_have_no_sites() -> None:
    """Embeddings are looked up; activations have no parameters."""
    assert sites(nn.Embedding(3, 4), "e") == []
    assert sites(nn.GELU(), "g") == []


def test_a_convolution_that_pads_by_itself_is_of_unknown_kind() -> None:
    """What it multiplies is known to it alone; padded before a plain one, it is seen."""

    class Same(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))

    same, plain, x = Same(1, 1, 2, bias=False), nn.Conv2d(1, 1, 2, bias=False), torch.arange(4.0).reshape(1, 1, 2, 2)
    assert not sites(same, "conv")
    assert not gram(same, x)
    plain.register_forward_pre_hook(lambda _, given: (nn.functional.pad(given[0], (0, 1, 0, 1)),))
    # The patches of (0 1 0; 2 3 0; 0 0 0) are (0 1 2 3), (1 0 3 0), (2 3 0 0) and (3 0 0 0).
    patches = torch.tensor([[0.0, 1, 2, 3], [1, 0, 3, 0], [2, 3, 0, 0], [3, 0, 0, 0]])
    assert torch.equal(gram(plain, x)["weight"], inner(patches))


def test_a_layer_that_no_sample_reached_has_no_result() -> None:
    """And asks for none."""
    collector = Collector({"weight": [GRAM]}, "m")
    assert collector.take(["weight"], GRAM) == {}
