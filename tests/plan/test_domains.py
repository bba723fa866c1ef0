"""Methods meet the tensors of their domain; for the others another method stands in, or nothing is done."""

from collections.abc import Mapping
from typing import Literal

import pytest

from eutectic.layout.roles import Role
from eutectic.methods import METHODS
from eutectic.methods.declare import (
    Domain,
    Elsewhere,
    Laws,
    Locality,
    Method,
    Needs,
    Paper,
    PerModel,
    combine,
    transform,
)
from eutectic.methods.site import Site
from eutectic.numerics.tensors import Tensor
from eutectic.plan.domains import apply_domains
from eutectic.recipe.resolve import ResolvedStep
from eutectic.recipe.values import NanWeights

LAWS = Laws(symmetric=True, fixed_point=True, identity=False, shift=True, scale=True)
PAPER = Paper("none", "A test", 2000)


def _elsewhere(n: int, *, scale: float, others: str, **_: object) -> Elsewhere:
    return Elsewhere("task_arithmetic", {"scale": scale / n}) if others == "mean" else Elsewhere(None)


def _needs(*, tensors: str, **_: object) -> Needs:
    return Needs(base=True, domain=Domain.MATRIX if tensors == "matrices" else Domain.LINEAR)


@combine(PAPER, needs=Needs(base=True, domain=Domain.LINEAR), vary=_needs, laws=LAWS, elsewhere=_elsewhere)
def spectral(
    site: Site,
    *,
    weight: PerModel = 1.0,  # type: ignore[assignment]
    scale: float = 1.0,
    others: Literal["base", "mean"] = "mean",
    tensors: Literal["linear", "matrices"] = "linear",
) -> Tensor:
    """Is never called here."""
    raise AssertionError(site.name)


@transform(PAPER, needs=Needs(base=True, domain=Domain.MATRIX), laws=LAWS)
def rotate(site: Site) -> Tensor:
    """Is never called here."""
    raise AssertionError(site.name)


def step(method: Method[...], values: Mapping[str, object], **sources: NanWeights) -> ResolvedStep:
    """Returns a step with its values."""
    return ResolvedStep(method, values, sources)


SPECTRAL = step(spectral, {"weight": (1.0, 2.0), "scale": 3.0, "others": "mean", "tensors": "linear"})


def test_a_matrix_is_merged_as_the_recipe_says() -> None:
    """Inside its domain nothing is said or changed."""
    found = apply_domains((SPECTRAL,), Role.QUERY, (4, 3), 2)
    assert found.steps == (SPECTRAL,)
    assert found.why == ""


@pytest.mark.parametrize("shape", [(), (4,), (4, 3, 2), (4, 3, 2, 2)], ids=str)
def test_other_shapes_go_elsewhere(shape: tuple[int, ...]) -> None:
    """The weight is carried over by its name, the scale as the declaration says: 3 / 2 models; the rest by default."""
    found = apply_domains((SPECTRAL,), Role.QUERY, shape, 2)
    (only,) = found.steps
    assert only.method is METHODS["task_arithmetic"]
    assert only.values == {"weight": (1.0, 2.0), "scale": 1.5, "normalize": False}
    assert found.why == f"{len(shape)}-D: spectral is for linear maps, task_arithmetic merges it"


@pytest.mark.parametrize("role", [Role.EMBEDDING, Role.POSITION, Role.HEAD, Role.HEAD_TASK, Role.ATTENTION_POSITION])
def test_matrices_that_are_no_maps(role: Role) -> None:
    """Embeddings, positions and heads are matrices in shape only; an option includes them."""
    found = apply_domains((SPECTRAL,), role, (4, 3), 2)
    assert found.steps[0].method is METHODS["task_arithmetic"]
    assert found.why == f"{role}: spectral is for linear maps, task_arithmetic merges it"
    every = step(spectral, {**SPECTRAL.values, "tensors": "matrices"})
    assert apply_domains((every,), role, (4, 3), 2).steps == (every,)


def test_the_base_is_kept() -> None:
    """No method elsewhere: the tensor is not merged."""
    keeping = step(spectral, {**SPECTRAL.values, "others": "base"})
    found = apply_domains((keeping,), Role.NORM, (4,), 2)
    assert found.steps == ()
    assert found.why == "1-D: spectral is for linear maps, the base is kept"


def test_coefficient_sources_go_with_their_parameter() -> None:
    """Weights that a statistic gives are the other method's weights too."""
    source = NanWeights()
    values = {name: value for name, value in SPECTRAL.values.items() if name != "weight"}
    (only,) = apply_domains((step(spectral, values, weight=source),), Role.NORM, (4,), 2).steps
    assert only.coefficients == {"weight": source}
    assert only.values == {"scale": 1.5, "normalize": False}


def test_a_transform_is_left_out_and_keeps_its_place() -> None:
    """Later steps stay where they were, so that their draws and statistics are those of the other tensors."""
    chain = (step(rotate, {}), step(METHODS["task_arithmetic"], {"weight": (1.0,), "scale": 1.0, "normalize": False}))
    found = apply_domains(chain, Role.NORM, (4,), 1)
    assert found.steps[1] is chain[1]
    idle = found.steps[0].method
    assert idle.name == "rotate"
    assert idle.needs_for({}).domain is Domain.ANY
    assert idle.needs_for({}).locality is Locality.ELEMENT
    assert found.why == "1-D: rotate is for matrices and is left out"
    assert apply_domains(chain, Role.HEAD, (4, 4), 1).steps == chain
