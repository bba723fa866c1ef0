from pathlib import Path
from typing import Any

import pytest

from eutectic.adapters.lora import open_adapter
from eutectic.checkpoint.source import Checkpoint
from eutectic.errors import MismatchError, RecipeError
from eutectic.plan.factored import FactorSite, Route, factor_sites, is_sum, layout_of, ranked, route_of
from eutectic.recipe.model import Recipe
from eutectic.recipe.parse import read_recipe
from tests.make.adapters import factors, write_adapter


def opened(tmp_path: Path, *ranks: int, **more: Any) -> list[Checkpoint]:
    """Opens adapters of these ranks on two modules; the second adapter lacks the second module."""
    found = []
    for at, rank in enumerate(ranks):
        tensors = factors("layers.0.q", 12, 20, rank) | (factors("layers.1.q", 12, 20, rank) if at != 1 else {})
        found.append(open_adapter(write_adapter(tmp_path / f"a{at}", tensors, r=rank, **more)))
    return found


def recipe(models: list[Checkpoint], method: Any = "task_arithmetic", **more: Any) -> Recipe:
    """Returns a recipe for an adapter of these."""
    entries = [{"model": model.reference, "name": f"m{at}"} for at, model in enumerate(models)]
    return read_recipe({"models": entries, "method": method, "output": {"form": "adapter"}} | more)


def sites(models: list[Checkpoint], route: Route = Route.SUM, **more: Any) -> list[FactorSite]:
    """Returns the sites of a recipe over adapters, with their ranks."""
    asked = recipe(models, **more)
    return ranked(factor_sites(asked, models, layout_of(models, {}), route), asked, route)


def test_sums_are_seen_in_what_methods_say_of_themselves(tmp_path: Path) -> None:
    """Weighted sums put factors side by side; votes do not; methods on factors have a route of their own."""
    models = opened(tmp_path, 2, 3)
    layout = layout_of(models, {})
    for method, summed in (
        ("linear", True),
        ({"task_arithmetic": {"scale": 0.5}}, True),
        ("ties", False),
        ({"ties": {"density": 1.0}}, False),
        ({"task_arithmetic": {"weight": {"nan": {}}}}, False),
    ):
        assert is_sum(recipe(models, method), models, layout) is summed
    assert route_of(recipe(models), models) is Route.SUM
    assert route_of(recipe(models, [{"dare": {"density": 0.5}}, "ties"]), models) is Route.DENSE
    assert route_of(recipe(models, "peft"), models) is Route.METHOD
    rules = [{"match": "*", "method": "peft"}]
    with pytest.raises(RecipeError, match="same first method"):
        route_of(recipe(models, rules=rules), models)


def test_weights_follow_the_adapters_that_have_a_module(tmp_path: Path) -> None:
    """Linear divides by all weights; the adapter that lacks the module counts as no change."""
    first, second = sites(opened(tmp_path, 2, 3, 4), method="linear")
    assert [feed.model for feed in first.feeds] == [0, 1, 2]
    assert first.weights == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert [feed.model for feed in second.feeds] == [0, 2]
    assert second.weights == pytest.approx((1 / 3, 1 / 3))
    assert (first.ranks, second.ranks) == (9, 6)


def test_ranks_are_no_more_than_asked_nor_than_there_can_be(tmp_path: Path) -> None:
    """The sum of ranks, what is asked for, or the shorter side."""
    models = opened(tmp_path, 2, 3, 4)
    assert [site.rank for site in sites(models)] == [9, 6]
    assert [site.rank for site in sites(models, output={"form": "adapter", "rank": 7})] == [7, 6]
    assert [site.rank for site in sites(models, Route.METHOD, method="peft")] == [4, 4]
    assert [site.rank for site in sites(models, Route.METHOD, method={"peft": {"type": "cat"}})] == [9, 6]
    many = opened(tmp_path / "many", 5, 5, 5)
    with pytest.raises(RecipeError, match="any rank up to 12"):
        sites(many)
    assert [site.rank for site in sites(many, output={"form": "adapter", "rank": 30})] == [12, 10]


def test_the_output_is_named_and_shaped_by_the_rank(tmp_path: Path) -> None:
    """A and B of each module, by PEFT's names; as float16 where asked."""
    (site, _) = sites(opened(tmp_path, 2), output={"form": "adapter", "dtype": "float16"})
    a, b = site.specs
    assert (a.name, a.shape, a.dtype.name) == ("base_model.model.layers.0.q.lora_A.weight", (2, 20), "F16")
    assert (b.name, b.shape) == ("base_model.model.layers.0.q.lora_B.weight", (12, 2))
    assert (site.dense_shape, site.matrix_shape) == ((12, 20), (12, 20))


def test_rules_may_keep_modules(tmp_path: Path) -> None:
    """The base's is no update; an adapter's is that one's alone."""
    models = opened(tmp_path, 2, 3)
    kept = [{"match": "layers.1.*", "keep": "base"}, {"match": "layers.0.*", "keep": "m1"}]
    (site,) = sites(models, rules=kept, base="org/base")
    assert site.name == "layers.0.q.weight"
    assert site.weights == (0.0, 1.0)


def test_adapters_of_other_shapes_are_refused_together(tmp_path: Path) -> None:
    """The module and the shapes are named."""
    models = opened(tmp_path, 2)
    other = open_adapter(write_adapter(tmp_path / "b", factors("layers.0.q", 12, 24)))
    with pytest.raises(MismatchError, match=r"layers\.0\.q\.weight: .*\(12, 20\), \(12, 24\)"):
        sites([*models, other])


def test_a_full_model_has_no_factors(tmp_path: Path) -> None:
    """It is named, and what to do."""
    (model,) = opened(tmp_path, 2)
    whole = Checkpoint("whole", model.source.adapter.file)  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match="whole has none"):
        route_of(recipe([model, whole], "peft"), [model, whole])
