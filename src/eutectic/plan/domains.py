"""Which of a chain's methods apply to a tensor: those outside whose domain it is are replaced, or left out."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from eutectic.layout.roles import Role
from eutectic.methods import get
from eutectic.methods.declare import Domain, Elsewhere, Method
from eutectic.plan.steps import Merged
from eutectic.recipe.resolve import ResolvedStep

#: Branches of roles whose matrices are no linear maps: they are looked up, or are not multiplied by a vector at all.
#: `ssm.state` holds some that are, whose names do not tell them apart.
_NO_MAPS = ("embedding", "head", "attention.position", "attention.sink", "norm", "scale", "ssm.state", "ssm.conv",
            "quantization", "buffer")  # fmt: skip
#: Branches that layers hold as vectors.
_VECTORS = ("norm", "scale")


@dataclass(frozen=True)
class Applied:
    """A chain as it applies to one tensor.

    Attributes:
        steps: the methods; none when the base's tensor is kept.
        why: what is different from the recipe's chain, and the reason; empty when nothing is.
    """

    steps: tuple[ResolvedStep, ...]
    why: str = ""


def apply_domains(steps: tuple[ResolvedStep, ...], role: Role, shape: tuple[int, ...], n: int) -> Applied:
    """Returns the chain that merges a tensor of this role and shape, of n models."""
    found: list[ResolvedStep] = []
    said: list[str] = []
    for step in steps:
        domain = step.method.needs_for(dict(step.values)).domain
        outside = _outside(domain, role, shape)
        if not outside:
            found.append(step)
        elif not step.method.combines:
            found.append(replace(step, method=step.method.left_out()))
            said.append(f"{outside}: {step.method.name} is for {domain.value} and is left out")
        else:
            other = step.method.elsewhere(n, **step.values)
            if other.method is None:
                return Applied((), f"{outside}: {step.method.name} is for {domain.value}, the base is kept")
            found.append(_instead(step, other, get(other.method), n))
            said.append(f"{outside}: {step.method.name} is for {domain.value}, {other.method} merges it")
    return Applied(tuple(found), "; ".join(said))


def without_data(site: Merged, lacking: Collection[int]) -> Merged:
    """Returns a site without data that its methods at some positions read: they are replaced or left out."""
    steps: list[ResolvedStep] = []
    for position, step in enumerate(site.steps):
        if position not in lacking:
            steps.append(step)
        elif not step.method.combines:
            steps.append(replace(step, method=step.method.left_out()))
        else:
            other = step.method.elsewhere(len(site.models), **step.values)
            if other.method is None:  # the base's tensor, as a merge that does not move
                other = Elsewhere("task_arithmetic", {"weight": (0.0,) * len(site.models)})
            steps.append(_instead(step, other, get(other.method or "linear"), len(site.models)))
    return replace(site, steps=tuple(steps), aside="calibration has no result there")


def _outside(domain: Domain, role: Role, shape: tuple[int, ...]) -> str:
    """Says what puts a tensor outside a domain; nothing when it is inside."""
    if domain is Domain.LAYERS:
        return _outside_layers(role, shape)
    if domain is not Domain.ANY and len(shape) != 2:
        return f"{len(shape)}-D"
    if domain is Domain.LINEAR and any(role.matches(branch) for branch in _NO_MAPS):
        return role.value
    return ""


def _outside_layers(role: Role, shape: tuple[int, ...]) -> str:
    if not shape:
        return "0-D"
    if role is Role.EMBEDDING_PATCH:  # a convolution, and what it adds
        return ""
    vector = len(shape) == 1 and any(role.matches(branch) for branch in _VECTORS)
    return "" if vector or not any(role.matches(branch) for branch in _NO_MAPS) else role.value


def _instead(step: ResolvedStep, other: Elsewhere, method: Method[Any], n: int) -> ResolvedStep:
    """The method that merges a tensor instead, with the values that it is given or shares by name."""
    shared = {own.name for own in method.parameters if _same(step.method, method, own.name)} - set(other.values)
    values: Mapping[str, object] = {name: value for name, value in step.values.items() if name in shared}
    coefficients = {name: source for name, source in step.coefficients.items() if name in shared}
    left = [own for own in method.parameters if own.name not in {*values, *coefficients}]
    missing = {own.name: (own.default,) * n if own.bounds.per_model else own.default for own in left}
    return ResolvedStep(method, {**missing, **values, **other.values}, coefficients)


def _same(one: Method[Any], other: Method[Any], name: str) -> bool:
    first, second = one.parameter(name), other.parameter(name)
    if first is None or second is None:
        return False
    return (first.kind, first.bounds.per_model) == (second.kind, second.bounds.per_model)
