from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from eutectic.checkpoint.spec import DTYPES, TensorSpec
from eutectic.methods import get
from eutectic.plan.demands import demands, held_under, read_by
from eutectic.plan.steps import Feed, Merged
from eutectic.recipe.resolve import ResolvedStep
from eutectic.stats.fold import Norm
from eutectic.stats.gradients import FisherDiagonal, GradientMagnitude
from eutectic.stats.inputs import InputGram, InputMoments

F32 = DTYPES["F32"]


def step(method: str, **changed: Any) -> ResolvedStep:
    """A method's defaults for two models."""
    found = get(method)
    values: Mapping[str, Any] = {
        own.name: (own.default,) * 2 if own.bounds.per_model else own.default for own in found.parameters
    }
    return ResolvedStep(found, {**values, **changed}, {})


def site(name: str, method: str, **changed: Any) -> Merged:
    """A site of two models, the second of which calls the tensor otherwise."""
    spec = TensorSpec(name, (2, 2), F32)
    feeds = (Feed(1, name, F32, 4), Feed(2, f"x.{name}", F32, 4))
    return Merged(spec, (step(method, **changed),), Feed(0, f"b.{name}", F32, 4), feeds)


def test_one_demand_for_a_statistic_and_model() -> None:
    """With every tensor that needs it, by the model's own names; weights alone demand nothing."""
    found = demands([site("a", "regmean"), site("b", "regmean"), site("c", "linear")])
    assert [(each.statistic, each.source, each.tensors) for each in found] == [
        (InputGram(), 1, ("a", "b")),
        (InputGram(), 2, ("x.a", "x.b")),
    ]


def test_a_norm_demands_what_it_is_of() -> None:
    """Fisher merging asks for the diagonal once."""
    one = site("a", "fisher")
    assert {type(each) for each in read_by(one, one.steps[0]).values()} == {FisherDiagonal, Norm}
    assert [each.source for each in demands([site("a", "fisher")])] == [1, 2]


def test_demands_differ_by_tensor() -> None:
    """Maps and kernels meet inputs, scales what a norm made, shifts and numbers neither; all may have gradients."""
    both = {"gram": InputGram(), "scales": InputMoments("each", "scales"), "fisher": FisherDiagonal("exact")}
    for name, shape, found in (
        ("a.weight", (2, 2), ["gram", "fisher"]),
        ("a.weight", (2, 2, 3), ["gram", "fisher"]),
        ("norm.weight", (2,), ["scales", "fisher"]),
        ("norm.bias", (2,), ["fisher"]),
        ("LayerNorm.beta", (2,), ["fisher"]),
        ("logit_scale", (), ["fisher"]),
    ):
        one = replace(site(name, "fisher"), spec=TensorSpec(name, shape, F32))
        method = replace(get("fisher"), calibrated=lambda **_: both)
        assert list(read_by(one, replace(one.steps[0], method=method))) == found, name


def test_results_at_the_bases_weights_have_its_names() -> None:
    """On whichever model's data."""
    one = site("a", "linear")
    assert held_under(one, one.models[1], GradientMagnitude("base")) == "b.a"
    assert held_under(one, one.models[1], GradientMagnitude("each")) == "x.a"
