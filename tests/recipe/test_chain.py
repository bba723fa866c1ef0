import pytest

from eutectic.errors import RecipeError
from eutectic.methods import METHODS
from eutectic.recipe.chain import ambiguous, bind, bind_loosely, check_value, miscount, owners
from eutectic.recipe.model import Step
from eutectic.recipe.values import NanWeights, Value

CHAIN = bind([Step(method="dare"), Step(method="ties")])


def test_binding_names_the_nearest_method() -> None:
    """An unknown method is an error; loosely bound it is its nearest, so that other errors are seen too."""
    with pytest.raises(RecipeError, match="did you mean 'ties'"):
        bind([Step(method="tise")])
    loose = bind_loosely([Step(method="tise")])
    assert loose is not None
    assert loose[0].method.name == "ties"
    assert bind_loosely([Step(method="qqqq")]) is None


def test_names_bare_and_with_their_step() -> None:
    """A bare name means every step that has it, a dotted one its step's."""
    assert [place for place, _ in owners(CHAIN, "density")] == [0, 1]
    assert [place for place, _ in owners(CHAIN, "ties.density")] == [1]
    assert [place for place, _ in owners(CHAIN, "weight")] == [1]
    assert owners(CHAIN, "linear.weight") == owners(CHAIN, "densty") == []
    assert ambiguous(CHAIN, "weight") is None
    assert ambiguous(CHAIN, "density") == "density is a parameter of dare and ties; write dare.density or ties.density"


@pytest.mark.parametrize(
    ("method", "models", "base", "says"),
    [
        ("slerp", 2, False, None),
        ("slerp", 1, True, None),
        ("slerp", 2, True, "slerp takes exactly 2 models, found 3 with the base"),
        ("passthrough", 2, True, "passthrough takes exactly 1 models, found 2"),
        ("model_stock", 1, True, "model_stock takes at least 2 models, found 1"),
    ],
)
def test_counting_models(method: str, models: int, base: bool, says: str | None) -> None:
    """The base counts where the method says so."""
    assert miscount(METHODS[method], models, base) == says


@pytest.mark.parametrize(
    ("method", "name", "value", "says"),
    [
        ("ties", "density", 0.5, None),
        ("ties", "density", (0, 1), None),
        ("ties", "density", (0, 2), "lies in"),
        ("ties", "weight", NanWeights(), None),
        ("ties", "scale", NanWeights(), "one value for all models"),
        ("ties", "scope", "modle", "did you mean 'model'"),
        ("ties", "scope", (1, 2), "does not vary over depth"),
        ("linear", "normalize", 1, "true or false"),
        ("slerp", "t", True, "is a number"),
    ],
)
def test_values_against_declarations(method: str, name: str, value: Value, says: str | None) -> None:
    """Kind, bounds and form are those of the method's signature."""
    parameter = METHODS[method].parameter(name)
    assert parameter is not None
    if says is None:
        check_value(METHODS[method], parameter, value)
    else:
        with pytest.raises(RecipeError, match=says):
            check_value(METHODS[method], parameter, value)
