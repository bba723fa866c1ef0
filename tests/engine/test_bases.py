"""A transform of the domain FACTORS gives coordinates; the rest of the chain merges them, and the result goes back."""

from pathlib import Path

import pytest
import torch

from eutectic.adapters.factors import Factors
from eutectic.adapters.lora import open_adapter
from eutectic.checkpoint.source import Checkpoint
from eutectic.engine.bases import Bases, CoordinateSource, carried_back
from eutectic.engine.factored import Maker
from eutectic.errors import UndeclaredNeed
from eutectic.methods.declare import Domain, Laws, Method, Needs, Paper, transform
from eutectic.methods.site import Coordinates, Site
from eutectic.numerics.tensors import Tensor
from eutectic.plan.factored import FactorFeed, FactorSite
from eutectic.recipe.resolve import ResolvedStep
from tests.make.adapters import factors, read, write_adapter
from tests.make.memory import MemorySource

LAWS = Laws(symmetric=True, fixed_point=True, identity=True, shift=True, scale=True)


@transform(Paper("none", "test", 2026), needs=Needs(domain=Domain.FACTORS, basis="both"), laws=LAWS)
def core(site: Site) -> Coordinates:
    """Gives coordinates in orthonormal bases of all columns and rows."""
    left = torch.linalg.qr(torch.cat([each.b for each in site.factors], 1))[0]
    right = torch.linalg.qr(torch.cat([each.a for each in site.factors], 0).T)[0].T
    return Coordinates(torch.stack([left.T @ each.dense() @ right.T for each in site.factors]), left, right)


@transform(Paper("none", "test", 2026), needs=Needs(domain=Domain.FACTORS, basis="out"), laws=LAWS)
def wrong(site: Site) -> Coordinates:
    """Gives coordinates of another shape than it declares."""
    return Coordinates(torch.stack([each.dense()[:1] for each in site.factors]))


def site(method: Method[...], models: list[Checkpoint]) -> FactorSite:
    """Returns the one module of two adapters as a site."""
    feeds = []
    for at, model in enumerate(models):
        adapter = model.source.adapter  # type: ignore[attr-defined]
        (edit,) = adapter.edits.values()
        feeds.append(FactorFeed(at, edit.pair, adapter.file.header[edit.pair.a].shape[0]))
    dtype = next(iter(models[0].source.header.values())).dtype
    steps = (ResolvedStep(method, {}, {}),)
    return FactorSite("q.weight", "q", (7, 9), (), False, False, tuple(feeds), steps, None, dtype)


@pytest.fixture
def models(tmp_path: Path) -> list[Checkpoint]:
    """Two adapters of ranks 2 and 3 on one module of 7 x 9."""
    return [
        open_adapter(write_adapter(tmp_path / f"a{at}", factors("q", 7, 9, 2 + at, seed=at), r=2 + at)) for at in (0, 1)
    ]


def test_coordinates_are_sources_of_deltas(models: list[Checkpoint]) -> None:
    """Small matrices, one a model, read in any ranges; carried back they are the updates."""
    one = site(core, models)
    bases = Bases([one], models, 0, False)
    sources = [CoordinateSource(bases, at) for at in (0, 1)]
    assert bases.shapes(one) == {one.name: (5, 5)}
    for at, source in enumerate(sources):
        assert source.header["q.weight"].shape == (5, 5)
        whole = read(source, "q.weight")
        part = torch.zeros(12, dtype=torch.uint8).numpy()
        source.read_into("q.weight", 7, part)
        assert torch.equal(
            torch.from_numpy(part.view("float32").copy()), torch.from_numpy(whole.reshape(-1)[7:10].copy())
        )
        maker = Maker(models, 0, False, MemorySource({"q.weight": torch.from_numpy(whole.copy())}), bases)
        made = maker.make(one)
        dense = made if isinstance(made, Tensor) else made.dense()  # type: ignore[union-attr]
        assert torch.allclose(dense, torch.from_numpy(read(models[at].source, "q.weight").copy()), atol=1e-5)
    assert sources[0].fingerprint() == sources[1].fingerprint()


def test_a_basis_of_another_shape_is_a_bug_of_the_method(models: list[Checkpoint]) -> None:
    """The declaration says (min(d_out, R), d_in)."""
    one = site(wrong, models)
    with pytest.raises(UndeclaredNeed, match="no coordinates of shape"):
        Bases([one], models, 0, False).of(one)


def test_coordinates_are_carried_back() -> None:
    """By the sides that there are; with merged rights and a scale their product, twice."""
    merged = torch.tensor([[2.0, 1.0]])
    left, right = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    both = carried_back(Coordinates(merged[None], left, right), [merged])
    assert isinstance(both, Factors)
    assert both.dense().tolist() == [[1.0, 2.0, 0.0], [3.0, 6.0, 0.0]]
    plain = carried_back(Coordinates(merged[None]), [merged])
    assert isinstance(plain, torch.Tensor)
    assert plain.tolist() == merged.tolist()
    one = carried_back(Coordinates(merged[None], left), [merged])
    assert isinstance(one, Factors)
    assert one.dense().tolist() == [[2.0, 1.0], [6.0, 3.0]]
    apart = carried_back(Coordinates(merged[None], rights=right[None], scale=2.0), [merged, right])
    assert isinstance(apart, Factors)
    assert apart.dense().tolist() == [[2.0, 4.0, 0.0]]
