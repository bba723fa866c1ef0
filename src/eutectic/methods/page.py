"""What a method says of itself: as data, as a page of text, and as a row of the README's table."""

import sys
from typing import Any

from eutectic.methods.declare import Domain, Method, Parameter


def describe(method: Method[Any]) -> dict[str, Any]:
    """Returns a method's declarations as plain data."""
    needs = method.needs
    return {
        "name": method.name,
        "kind": "combine" if method.combines else "transform",
        "summary": summary(method),
        "source": method.paper.source,
        "title": method.paper.title,
        "year": method.paper.year,
        "needs": {
            "base": needs.base,
            "models": str(needs.models),
            "locality": needs.locality.name.lower(),
            "matrices_only": needs.domain is Domain.MATRIX,
            "random": needs.random,
            "fused": method.fused is not None,
        },
        "parameters": {
            own.name: {
                "kind": own.kind,
                "default": None if own.required else own.default,
                "required": own.required,
                "per_model": own.bounds.per_model,
                "low": own.bounds.low,
                "high": own.bounds.high,
                "choices": list(own.choices),
                "meaning": own.doc,
            }
            for own in method.parameters
        },
        "notes": notes(method),
    }


def summary(method: Method[Any]) -> str:
    """Returns the first sentence of the method's docstring, without its shapes."""
    return method.doc.splitlines()[0].split(": (")[0].rstrip(".")


def notes(method: Method[Any]) -> str:
    """Returns the docstring of the method's file: source, equation, and where it departs."""
    return (sys.modules[method.function.__module__].__doc__ or "").strip()


def page(method: Method[Any]) -> str:
    """Returns a page of text on one method."""
    needs = method.needs
    wants = [f"{needs.models} models{' (the base counts)' if needs.base_counts else ''}"]
    wants += ["a base"] if needs.base else []
    wants += ["a seed"] if needs.random else []
    lines = [f"{method.name}, a {'combine' if method.combines else 'transform'}", "", notes(method), ""]
    lines += [f"needs      {', '.join(wants)}; sees {needs.locality.name.lower()}s at once"]
    lines += ["parameters" if method.parameters else "parameters none"]
    return "\n".join([*lines, *(f"  {_parameter(own)}" for own in method.parameters)])


def _parameter(own: Parameter) -> str:
    kind = " | ".join(own.choices) if own.choices else own.kind
    bounds = "" if own.bounds.low is None else f" in [{own.bounds.low:g}, {own.bounds.high:g}]"
    each = ", one a model" if own.bounds.per_model else ""
    default = "required" if own.required else f"default {_plain(own.default)}"
    return f"{own.name}: {kind}{bounds}{each}; {default}. {own.doc}"


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def row(method: Method[Any]) -> str:
    """Returns a method's row of the README's table."""
    wants = ["base"] if method.needs.base else []
    wants += [f"{method.needs.models} models"] if str(method.needs.models) != "at least 1" else []
    wants += ["seed"] if method.needs.random else []
    parameters = ", ".join(f"`{own.name}`" for own in method.parameters)
    kind = "combine" if method.combines else "transform"
    source = method.paper.source
    link = f"[{method.paper.title}](https://arxiv.org/abs/{source.removeprefix('arXiv:')})"
    named = link if source.startswith("arXiv:") else f"{method.paper.title} ({source})"
    return f"| `{method.name}` | {kind} | {summary(method)} | {', '.join(wants) or 'nothing'} | {parameters} | {named} |"


def table(methods: list[Method[Any]]) -> str:
    """Returns the README's table of methods."""
    head = ["| method | kind | what it does | needs | parameters | source |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *(row(method) for method in methods)])
