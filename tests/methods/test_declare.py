from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
import torch

from eutectic.errors import RecipeError
from eutectic.methods import METHODS, get
from eutectic.methods.declare import (
    REQUIRED,
    Bounds,
    Count,
    Domain,
    Fraction,
    Laws,
    Locality,
    Method,
    Needs,
    Paper,
    Parameter,
    PerModel,
    PerModelFraction,
    at_least,
    combine,
    exactly,
    no_folds,
    transform,
)
from eutectic.methods.site import Site
from eutectic.numerics.draw import Key
from eutectic.numerics.tensors import Tensor

PAPER = Paper("arXiv:0000.00000", "A paper", 2025)
LAWS = Laws(symmetric=True, fixed_point=True, identity=True, shift=True, scale=True)


@combine(PAPER, needs=Needs(), laws=LAWS)
def sample(
    site: Site,
    *,
    share: PerModelFraction,
    weight: PerModel = 1.0,  # type: ignore[assignment]
    top: Fraction = 0.5,
    size: float = 2.0,
    count: int = 3,
    exact: bool = False,
    kind: Literal["one", "two"] = "one",
) -> Tensor:
    """Sums the models: (n, *shape) -> (*shape).

    More on it: this is not a parameter.

    Args:
        share: how much of each,
            on two lines: with a colon.
        weight: its weight.
        kind: which of two.

    Raises:
        nothing: at all.
    """
    return site.tensors.sum(0) * size


def parameter(name: str, method: Method[Any] = sample) -> Parameter:
    """Returns a parameter that must be there."""
    found = method.parameter(name)
    assert found is not None
    return found


def test_the_signature_is_the_schema() -> None:
    """Kinds, bounds, defaults and words are read from the annotations."""
    assert [own.name for own in sample.parameters] == ["share", "weight", "top", "size", "count", "exact", "kind"]
    assert parameter("share") == Parameter(
        "share", "float", REQUIRED, Bounds(0.0, 1.0, True), (), "how much of each, on two lines: with a colon."
    )
    assert parameter("weight") == Parameter("weight", "float", 1.0, Bounds(per_model=True), (), "its weight.")
    assert parameter("top").bounds == Bounds(0.0, 1.0)
    assert (parameter("count").kind, parameter("exact").kind) == ("int", "bool")
    assert (parameter("kind").kind, parameter("kind").choices) == ("choice", ("one", "two"))
    assert parameter("size").doc == ""
    assert sample.parameter("nothing") is None
    assert [own.name for own in sample.parameters if own.required] == ["share"]


def test_the_docstring_is_kept() -> None:
    """Unindented, as written."""
    assert sample.doc.startswith("Sums the models: (n, *shape) -> (*shape).\n\nMore on it")


def test_calling_calls_the_function() -> None:
    """And nothing else: no defaults are looked up elsewhere, nothing is checked."""
    site = Site("w", 2, Key(0, "w"), {}, torch.ones(2, 3))
    assert sample(site, share=torch.ones(2, 1)).tolist() == [4.0] * 3  # type: ignore[call-arg]
    assert sample.function(site, share=torch.ones(2, 1), size=1.0).tolist() == [2.0] * 3


def test_kinds_of_method() -> None:
    """A combine and a transform differ in what they return, and say so."""

    @transform(PAPER, needs=Needs(base=True), laws=LAWS)
    def keep(site: Site) -> Tensor:
        """Keeps the deltas: (n, *shape) -> (n, *shape)."""
        return site.deltas

    assert sample.combines
    assert not keep.combines
    assert keep.name == "keep"
    assert keep.parameters == ()
    assert keep.folds() == no_folds() == {}


def test_needs_may_vary() -> None:
    """Where the hyperparameters change what a method needs, `vary` says how."""

    def vary(*, whole: bool) -> Needs:
        return Needs(locality=Locality.TENSOR if whole else Locality.ELEMENT)

    @combine(PAPER, needs=Needs(locality=Locality.ELEMENT), laws=LAWS, vary=vary)
    def some(site: Site, *, whole: bool = False) -> Tensor:
        """Takes the first: (n, *shape) -> (*shape)."""
        return site.tensors[0]

    assert some.needs_for({"whole": True}).locality is Locality.TENSOR
    assert some.needs_for({"whole": False}).locality is Locality.ELEMENT
    assert sample.needs_for({}) is sample.needs


def _positional(site: Site, size: float = 1.0) -> Tensor:
    return site.tensors[0] * size


def _listed(site: Site, *, sizes: list[float]) -> Tensor:
    return site.tensors[0] * sizes[0]


def _text(site: Site, *, word: Annotated[str, Bounds()] = "x") -> Tensor:
    return site.tensors[0] * len(word)


@pytest.mark.parametrize("function", [_positional, _listed, _text])
def test_other_signatures_are_refused(function: Any) -> None:
    """Keywords of the closed list of kinds only: a programming error at import, not a surprise in a recipe."""
    with pytest.raises(TypeError, match="is not one of the kinds a method may take"):
        combine(PAPER, needs=Needs(), laws=LAWS)(function)


GOOD: Mapping[str, list[tuple[object, object]]] = {
    "top": [(0, 0.0), (1, 1.0), (0.25, 0.25)],
    "size": [(-3, -3.0), (1e300, 1e300)],
    "count": [(4, 4), (4.0, 4)],
    "exact": [(True, True), (False, False)],
    "kind": [("two", "two")],
    "share": [(0.5, 0.5)],
}
BAD: Mapping[str, list[tuple[object, str]]] = {
    "top": [(1.5, r"here: top lies in \[0.0, 1.0\]; found 1.5"), (-0.1, "top lies in"), ("half", "top is a number")],
    "size": [
        (float("nan"), "size is finite"),
        (float("inf"), "size is finite"),
        (True, "size is a number; found True"),
    ],
    "count": [(2.5, "count is a whole number; found 2.5"), (None, "count is a number"), ("3", "count is a number")],
    "exact": [(1, "exact is true or false; found 1"), ("yes", "exact is true or false")],
    "kind": [("twoo", "kind is one of one, two; found 'twoo'; did you mean 'two'"), (2, "kind is one of")],
    "share": [(2, "share lies in"), (float("nan"), "share is finite")],
}


@pytest.mark.parametrize("name", GOOD)
def test_good_values(name: str) -> None:
    """Each arrives in its declared kind."""
    for value, expected in GOOD[name]:
        found = parameter(name).check(value, "here")
        assert found == expected
        assert type(found) is type(expected)


@pytest.mark.parametrize("name", BAD)
def test_bad_values(name: str) -> None:
    """The message says where, what was expected and what was found."""
    for value, message in BAD[name]:
        with pytest.raises(RecipeError, match=f"^here: .*{message.removeprefix('here: ')}"):
            parameter(name).check(value, "here")


@pytest.mark.parametrize("name", ["size", "count"])
@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), 10**400], ids=["nan", "inf", "-inf", "huge"]
)
def test_numbers_that_are_none(name: str, value: object) -> None:
    """Every number that cannot be used is a RecipeError, whatever kind is asked for."""
    with pytest.raises(RecipeError, match=f"here: {name}"):
        parameter(name).check(value, "here")


def test_counts() -> None:
    """As messages say them."""
    assert str(at_least(2)) == "at least 2"
    assert str(exactly(2)) == "exactly 2"
    assert str(Count(2, 4)) == "2 to 4"


def test_localities_are_ordered() -> None:
    """A chain needs the most that one of its methods needs."""
    assert max(Locality.ELEMENT, Locality.TENSOR, Locality.ROW) is Locality.TENSOR


def test_the_zoo_is_listed_in_order() -> None:
    """Methods are found by their own names; unknown names suggest the nearest."""
    own = [name for name, method in METHODS.items() if method.function.__module__.startswith("eutectic.")]
    assert own == sorted(own)
    assert all(get(name).name == name for name in METHODS)
    with pytest.raises(RecipeError, match="unknown method 'tiess'; did you mean 'ties'"):
        get("tiess")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_explains_itself(method: Method[Any]) -> None:
    """A sentence with shapes, a paper, a meaning for each parameter, and a source in the file's docstring."""
    first = method.doc.splitlines()[0]
    assert " -> (" in first
    assert first.endswith(".")
    assert all(own.doc for own in method.parameters)
    assert method.paper.year > 1900
    module = __import__(method.function.__module__, fromlist=["_"])
    assert "Source:" in (module.__doc__ or "")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_elsewhere_names_a_method_for_every_tensor(method: Method[Any]) -> None:
    """What merges the tensors outside a domain has no domain itself, and takes the values that it is given."""
    defaults = {own.name: 0.5 if own.required else own.default for own in method.parameters}
    words = [own for own in method.parameters if own.kind == "choice"]
    chosen = [defaults, *(defaults | {own.name: word} for own in words for word in own.choices)]
    for values in chosen:
        other = method.elsewhere(3, **values)
        if other.method is not None:
            assert get(other.method).needs.domain is Domain.ANY
            assert get(other.method).combines
            for name, value in other.values.items():
                own = get(other.method).parameter(name)
                assert own is not None
                own.check(value, name)


def test_a_number_from_zero_up() -> None:
    """A bound on one side is said as such."""
    steps = get("nearswap").parameter("t")
    assert steps is not None
    assert steps.check(0, "here") == 0.0
    with pytest.raises(RecipeError, match=r"here: t is at least 0.0; found -1"):
        steps.check(-1, "here")
