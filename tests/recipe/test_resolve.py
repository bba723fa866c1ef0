from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eutectic.errors import RecipeError
from eutectic.layout.layout import Place
from eutectic.layout.roles import Role
from eutectic.recipe.model import Recipe
from eutectic.recipe.resolve import Resolver, SiteInput, at_depth
from eutectic.recipe.values import NanWeights

EMBEDDING = Place("model.embed_tokens.weight", Role.EMBEDDING, None, None, 0.0)
HEAD = Place("lm_head.weight", Role.HEAD, None, None, 1.0)


def query(block: int, blocks: int = 5) -> Place:
    """Returns the place of a query projection."""
    name = f"model.layers.{block}.self_attn.q_proj.weight"
    return Place(name, Role.QUERY, "model.layers", block, block / (blocks - 1))


def resolver(**data: Any) -> Resolver:
    """Returns the resolver of a recipe with a base and the models x and y."""
    return Resolver(Recipe.model_validate({"base": "b", "models": ["x", "y"], **data}))


def weights(own: Resolver, place: Place) -> object:
    """Returns the weights of the last step."""
    return own.steps_for(place)[-1].values["weight"]


def test_defaults_fill_every_parameter() -> None:
    """A bare method has every parameter, per-model ones as floats for each model."""
    (step,) = resolver(method="ties").steps_for(HEAD)
    assert step.values == {
        "density": (0.2, 0.2),
        "weight": (1.0, 1.0),
        "scale": 1.0,
        "scope": "model",
        "count": "official",
        "average": "count",
        "tie": "nobody",
    }
    assert step.coefficients == {}
    assert all(type(value) is float for value in step.values["weight"])  # type: ignore[attr-defined]


def test_precedence_from_method_to_rules() -> None:
    """Each layer wins over those before it: chain, model, slice, source, rules in order."""
    chain: dict[str, Any] = {"method": {"linear": {"weight": 2}}}
    assert weights(resolver(**chain), query(0)) == (2, 2)
    chain["models"] = ["x", {"model": "y", "weight": 3}]
    assert weights(resolver(**chain), query(0)) == (2, 3)
    sources: list[dict[str, Any]] = [{"model": "x", "blocks": [0, 5]}, {"model": "y", "blocks": [0, 5]}]
    chain["slices"] = [{"sources": sources, "parameters": {"weight": 4}}]
    assert weights(resolver(**chain), query(0)) == (4, 4)
    sources[1]["weight"] = 5
    assert weights(resolver(**chain), query(0)) == (4, 5)
    chain["rules"] = [{"match": "*", "set": {"weight": 6}}, {"role": "attention", "models": "x", "set": {"weight": 7}}]
    assert weights(resolver(**chain), query(0)) == (7, 6)
    chain["rules"].append({"blocks": "0-1", "set": {"weight": 8}})
    assert weights(resolver(**chain), query(1)) == (8, 8)
    assert weights(resolver(**chain), query(2)) == (7, 6)


def test_gradients_run_over_depth() -> None:
    """[0, 1, 0] is 0 at both ends, 1 halfway, and linear between."""
    own = resolver(method="linear", models=[{"model": "x", "weight": [0, 1, 0]}, "y"])
    assert [weights(own, query(block)) for block in range(5)] == [(w, 1.0) for w in (0.0, 0.5, 1.0, 0.5, 0.0)]
    assert weights(own, EMBEDDING) == weights(own, HEAD) == (0.0, 1.0)
    shared = resolver(models=["x"], method={"slerp": {"t": [0, 1]}})
    assert shared.steps_for(query(1))[0].values["t"] == 0.25


def test_lines_rise_over_the_blocks() -> None:
    """0.5 in the first of five blocks and outside them, 0.9 in the last; of two models 1 / 2 if it is not given."""
    for lines in ({"alpha": 0.5, "beta": 0.4}, {"beta": 0.4}):
        own = resolver(method={"ties": {"scale": {"lines": lines}}})
        scales = [own.steps_for(query(block))[0].values["scale"] for block in range(5)]
        assert scales == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
        assert [own.steps_for(place)[0].values["scale"] for place in (EMBEDDING, HEAD)] == [0.5, 0.5]
    # A model of one block, which is as deep as any, has alpha.
    one = Place("model.layers.0.norm.weight", Role.NORM, "model.layers", 0, 1.0)
    assert own.steps_for(one)[0].values["scale"] == 0.5


def test_lines_need_a_number() -> None:
    """A word cannot rise, and what comes out is held to the parameter's bounds."""
    with pytest.raises(RecipeError, match="does not vary over depth; found lines"):
        resolver(method={"ties": {"scope": {"lines": {"beta": 1}}}})
    with pytest.raises(RecipeError, match=r"density lies in \[0.0, 1.0\]; found 1.1"):
        resolver(method={"ties": {"density": {"lines": {"alpha": 0.1, "beta": 1}}}}).steps_for(query(4))


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6), st.floats(0, 1))
def test_gradient_stays_within_its_numbers(gradient: list[float], depth: float) -> None:
    """A gradient meets its ends exactly and never leaves its range."""
    slack = 1e-9 * max(map(abs, gradient))
    assert at_depth(tuple(gradient), 0.0) == gradient[0]
    assert at_depth(tuple(gradient), 1.0) == gradient[-1]
    assert min(gradient) - slack <= at_depth(tuple(gradient), depth) <= max(gradient) + slack


def test_all_selectors_must_match() -> None:
    """A rule applies where name, role and block all match; upper and lower case differ."""
    rule = {"match": ["*.q_proj.*", "*.k_proj.*"], "role": "attention.*", "blocks": "1,3-4", "set": {"weight": 0}}
    own = resolver(method="linear", rules=[rule, {"match": "LM_HEAD*", "set": {"weight": 9}}])
    assert [block for block in range(5) if weights(own, query(block)) == (0, 0)] == [1, 3, 4]
    assert weights(own, HEAD) == (1, 1)


def test_keep_and_another_chain_later_wins() -> None:
    """The last rule that keeps or names a chain decides; rules that only set values do not."""
    rules = [
        {"match": "*", "keep": "base"},
        {"role": "attention", "method": {"linear": {"normalize": False}}},
        {"role": "attention", "set": {"weight": 3}},
        {"match": "lm_head.*", "keep": "y"},
    ]
    own = resolver(method="ties", rules=rules)
    assert (own.keep_for(EMBEDDING), own.keep_for(query(0)), own.keep_for(HEAD)) == ("base", None, "y")
    (step,) = own.steps_for(query(0))
    assert (step.method.name, step.values) == ("linear", {"weight": (3, 3), "normalize": False})


def test_values_go_to_the_chain_that_has_them() -> None:
    """A model's density waits for TIES; where a rule chose linear it means nothing."""
    own = resolver(
        models=["x", {"model": "y", "density": 0.7}],
        method="ties",
        rules=[{"role": "norm", "method": "linear"}],
    )
    norm = Place("model.norm.weight", Role.NORM, None, None, 1.0)
    assert own.steps_for(HEAD)[0].values["density"] == (0.2, 0.7)
    assert set(own.steps_for(norm)[0].values) == {"weight", "normalize"}


def test_steps_that_share_a_name() -> None:
    """`dare.density` and `ties.density` are two parameters."""
    models = [{"model": "x", "dare.density": 0.4}, {"model": "y", "ties.density": 0.9}]
    dare, ties = resolver(models=models, method=[{"dare": {"density": 0.5}}, "ties"]).steps_for(HEAD)
    assert (dare.values["density"], ties.values["density"]) == ((0.4, 0.5), (0.2, 0.9))


def test_coefficient_sources_stand_apart() -> None:
    """A source is returned beside the values; a rule's numbers replace it, a number for some models clashes."""
    own = resolver(method={"linear": {"weight": "nan"}}, rules=[{"match": "lm_head.*", "set": {"weight": 1}}])
    (step,) = own.steps_for(query(0))
    assert (step.values, step.coefficients) == ({"normalize": True}, {"weight": NanWeights()})
    assert own.steps_for(HEAD)[0].coefficients == {}
    mixed = resolver(method={"linear": {"weight": "nan"}}, models=["x", {"model": "y", "weight": 1}])
    with pytest.raises(RecipeError, match=r"lm_head\.weight: linear: weight comes from a source for all models"):
        mixed.steps_for(HEAD)


def test_missing_value_names_model_parameter_and_tensor() -> None:
    """A required value that only some tensors have is told with the first tensor that lacks it."""
    rules = [{"role": "attention", "set": {"density": 0.5}}]
    own = resolver(method=["dare", "task_arithmetic"], rules=rules)
    assert own.steps_for(query(0))[0].values["density"] == (0.5, 0.5)
    with pytest.raises(RecipeError, match=r"lm_head\.weight: dare needs a density of x, found none"):
        own.steps_for(HEAD)


def test_slices_name_their_inputs() -> None:
    """Output blocks follow the slices; what is outside the blocks comes as in the first or the last slice."""
    own = resolver(
        method="passthrough",
        models=["x", {"model": "path", "name": "y"}],
        slices=[
            {"sources": [{"model": "x", "blocks": [0, 2]}]},
            {"sources": [{"model": "path", "blocks": [4, 7]}], "base_blocks": [1, 4], "parameters": {"scale": 2}},
        ],
    )
    assert own.blocks == 5
    inputs = [own.inputs_for(query(block)) for block in range(5)]
    assert inputs == [(SiteInput(m, b),) for m, b in (("x", 0), ("x", 1), ("y", 4), ("y", 5), ("y", 6))]
    assert [own.base_block_for(query(block)) for block in range(5)] == [0, 1, 1, 2, 3]
    assert own.inputs_for(EMBEDDING) == (SiteInput("x", None),)
    assert own.inputs_for(HEAD) == (SiteInput("y", None),)
    assert own.base_block_for(HEAD) is None
    assert [own.steps_for(place)[0].values["scale"] for place in (query(1), query(2), HEAD)] == [1, 2, 2]
    with pytest.raises(RecipeError, match="there is no block 5"):
        own.steps_for(query(5))


def test_slices_of_one_stack_leave_others_whole() -> None:
    """With the stack named, blocks of another (a vision tower) keep their own numbers."""
    recipe = Recipe.model_validate(
        {"models": ["x"], "method": "passthrough", "slices": [{"sources": [{"model": "x", "blocks": [3, 4]}]}]}
    )
    own = Resolver(recipe, stack="model.layers")
    vision = Place("vision.blocks.9.fc1.weight", Role.UP, "vision.blocks", 9, 0.5)
    assert own.inputs_for(query(0)) == (SiteInput("x", 3),)
    assert own.inputs_for(vision) == (SiteInput("x", 9),)
    assert own.base_block_for(vision) == 9


def test_the_base_may_be_a_source() -> None:
    """`base` in a slice is one model among the others, without values of an entry."""
    sources = [{"model": "base", "blocks": [0, 1], "weight": 3}, {"model": "x", "blocks": [0, 1]}]
    own = resolver(models=[{"model": "x", "weight": 2}], method="linear", slices=[{"sources": sources}])
    assert own.inputs_for(query(0)) == (SiteInput("base", 0), SiteInput("x", 0))
    assert weights(own, query(0)) == (3, 2)


def test_a_chain_of_a_rule_counts_the_models_it_meets() -> None:
    """A rule's method that a slice has too many sources for is told with the tensor."""
    own = resolver(
        method="linear",
        slices=[{"sources": [{"model": "x", "blocks": [0, 2]}, {"model": "y", "blocks": [0, 2]}]}],
        rules=[{"blocks": 1, "method": "passthrough"}],
    )
    assert len(own.steps_for(query(0))) == 1
    with pytest.raises(RecipeError, match=r"layers\.1\..*passthrough takes exactly 1 models, found 2"):
        own.steps_for(query(1))


def test_without_slices_inputs_are_all_models() -> None:
    """Every model feeds every tensor with its own block."""
    own = resolver(method="linear")
    assert own.blocks is None
    assert own.inputs_for(query(3)) == (SiteInput("x", 3), SiteInput("y", 3))
    assert own.base_block_for(query(3)) == 3


def test_unsound_recipes_have_no_resolver() -> None:
    """The static checks come first."""
    with pytest.raises(RecipeError, match="needs a base"):
        resolver(base=None, method="ties")


def test_averages_along_a_run_are_numbers_at_once() -> None:
    """Sources that look at nothing but the order are numbers before anything is planned, oldest first."""
    (step,) = resolver(method={"linear": {"weight": "wma"}}).steps_for(HEAD)
    assert step.values["weight"] == (1 / 3, 2 / 3)
    assert step.coefficients == {}
    own = resolver(method={"linear": {"weight": {"ema": {"decay": 0.25}}}}, models=["x", "y", "z"])
    assert weights(own, HEAD) == (0.0625, 0.1875, 0.75)
