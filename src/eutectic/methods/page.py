"""What a method says of itself: as data, as pages of text and Markdown, and as rows of tables."""

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from eutectic.methods.declare import Domain, Method, Parameter


def describe(method: Method[Any]) -> dict[str, Any]:
    """Returns a method's declarations as plain data."""
    needs = method.needs
    return {
        "name": method.name,
        "kind": _kind(method),
        "summary": summary(method),
        "source": method.paper.source,
        "title": method.paper.title,
        "year": method.paper.year,
        "needs": {
            "base": needs.base,
            "models": str(needs.models),
            "locality": needs.locality.name.lower(),
            "domain": needs.domain.value,
            "random": needs.random,
            "fused": method.fused is not None,
        },
        "extras": [extra.name for extra in method.extras],
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
    return re.split(r": (?:\(|n )", method.doc.splitlines()[0])[0].rstrip(".")


def notes(method: Method[Any]) -> str:
    """Returns the docstring of the method's file: source, equation, and where it departs."""
    return (sys.modules[method.function.__module__].__doc__ or "").strip()


def page(method: Method[Any]) -> str:
    """Returns a page of text on one method."""
    lines = [f"{method.name}, a {_kind(method)}", "", notes(method), ""]
    lines += [f"needs      {', '.join(_wants(method, always=True))}; sees {_sees(method)} at once"]
    lines += [f"keeps      {', '.join(_extras(method))} for each task"] if method.extras else []
    lines += ["parameters" if method.parameters else "parameters none"]
    return "\n".join([*lines, *(f"  {_parameter(own)}" for own in method.parameters)])


def markdown(method: Method[Any]) -> str:
    """Returns the page of the documentation on one method, with a recipe that runs."""
    title, _, rest = notes(method).partition("\n")
    lines = [f"# {method.name}", "", title, "", *rest.strip().replace("\nDeparts: ", "\n\nDeparts: ").splitlines(), ""]
    lines += [f"A [{_kind(method)}](../concepts.md#methods) from {_cite(method)}. It needs "]
    lines[-1] += f"{_series(_wants(method, always=True))}, and sees {_sees(method)} at once."
    if method.extras:
        kept = _series([f"`{name}`" for name in _extras(method)])
        lines += [f"Beside the merged tensor it keeps {kept} [for each task](../specialise.md)."]
    lines += [""]
    if method.parameters:
        lines += [
            "| parameter | values | default | meaning |",
            "|---|---|---|---|",
            *map(_described, method.parameters),
            "",
        ]
    lines += [f"A recipe with {'every parameter written out' if method.parameters else 'it'}:", ""]
    lines += ["```yaml", f"# {method.name}.yaml", *_example(method), "```", ""]
    return "\n".join([*lines, "```sh", f"eutectic plan {method.name}.yaml", "```", ""])


def table(methods: Sequence[Method[Any]], pages: str) -> str:
    """Returns the table of methods, each linked to its page in the folder `pages`."""
    head = ["| method | kind | what it does | needs | parameters | source |", "|---|---|---|---|---|---|"]
    rows = [
        f"| [`{method.name}`]({pages}/{method.name}.md) | {_kind(method)} | {summary(method)} "
        f"| {', '.join(_wants(method)) or 'nothing'} | {', '.join(f'`{own.name}`' for own in method.parameters)} "
        f"| {_cite(method)} |"
        for method in methods
    ]
    return "\n".join([*head, *rows])


def declarations(methods: Sequence[Method[Any]]) -> str:
    """Returns the table of what methods declare: what they see, whether kernels exist, and the laws they keep."""
    head = ["| method | sees | fused kernel | laws kept | laws broken |", "|---|---|---|---|---|"]
    rows = []
    for method in methods:
        laws = {name.replace("_", " "): kept for name, kept in asdict(method.laws).items()}
        kept, broken = (", ".join(name for name in laws if laws[name] is wanted) for wanted in (True, False))
        fused = "no" if method.fused is None else "yes"
        rows.append(f"| `{method.name}` | {_sees(method)} | {fused} | {kept} | {broken} |")
    return "\n".join([*head, *rows])


def _kind(method: Method[Any]) -> str:
    return "combine" if method.combines else "transform"


def _sees(method: Method[Any]) -> str:
    if method.needs.domain is not Domain.ANY:
        return str(method.needs.domain.value)
    return f"{method.needs.locality.name.lower()}s"


def _on_factors(method: Method[Any]) -> bool:
    return method.needs.domain is Domain.FACTORS


def _wants(method: Method[Any], *, always: bool = False) -> list[str]:
    """What the method needs; how many models only if that is not any number, or `always`."""
    needs = method.needs
    count = f"{needs.models} model{'' if str(needs.models).endswith(' 1') else 's'}"
    wants = (["a base"] if needs.base else []) + (["adapters only"] if _on_factors(method) else [])
    if always or (needs.models.low, needs.models.high) != (1, None):
        wants += [f"{count}{' (the base may be one)' if needs.base_counts else ''}"]
    if _reads_data(method):
        wants += ["data"]
    return wants + (["a seed"] if needs.random else [])


def _reads_data(method: Method[Any]) -> bool:
    """Whether the method looks at data unless a parameter says otherwise."""
    return bool(method.calibrated(**{own.name: 0.5 if own.required else own.default for own in method.parameters}))


def _extras(method: Method[Any]) -> list[str]:
    return [extra.name for extra in method.extras]


def _series(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _cite(method: Method[Any]) -> str:
    """The paper, linked where its source is on the web."""
    kind, _, where = method.paper.source.partition(":")
    sites = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/", "github": "https://github.com/"}
    title = f"{method.paper.title} ({method.paper.year})"
    return f"[{title}]({sites[kind]}{where})" if kind in sites else f"{title}, {method.paper.source}"


def _example(method: Method[Any]) -> list[str]:
    """A recipe that uses the method with every parameter at its default."""
    if _on_factors(method):
        return _example_on_factors(method)
    models = ["code"] if method.needs.models.high == 1 else ["code", "maths"]
    values = ", ".join(f"{own.name}: {_plain(0.5 if own.required else own.default)}" for own in method.parameters)
    step = f"{method.name}: {{{values}}}" if values else method.name
    chain = [f"method: {step}"] if not values else ["method:", f"  {step}"]
    if not method.combines:
        chain = ["method:", f"  - {step}", "  - task_arithmetic"]
    base = ["base: base"] if method.needs.base or not method.combines else []
    data = ["calibration:", "  data: texts.jsonl"] if _reads_data(method) else []
    return [*base, f"models: [{', '.join(models)}]", *chain, *data]


def _described(own: Parameter) -> str:
    default = "required" if own.required else f"`{_plain(own.default)}`"
    return f"| `{own.name}` | {_values(own)} | {default} | {own.doc} |"


def _values(own: Parameter) -> str:
    kind = ", ".join(f"`{choice}`" for choice in own.choices) if own.choices else own.kind
    low, high = own.bounds.low, own.bounds.high
    limits = [] if low is None else [f"from {low:g}"]
    limits += [] if high is None else [f"to {high:g}"]
    return " ".join([kind, *limits]) + (", one a model" if own.bounds.per_model else "")


def _parameter(own: Parameter) -> str:
    kind = " | ".join(own.choices) if own.choices else own.kind
    bounds = (
        "" if own.bounds.low is None or own.bounds.high is None else f" in [{own.bounds.low:g}, {own.bounds.high:g}]"
    )
    each = ", one a model" if own.bounds.per_model else ""
    default = "required" if own.required else f"default {_plain(own.default)}"
    return f"{own.name}: {kind}{bounds}{each}; {default}. {own.doc}"


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _example_on_factors(method: Method[Any]) -> list[str]:
    """A recipe for an adapter: two of one, since the folder of the examples has no more."""
    values = ", ".join(f"{own.name}: {_plain(0.5 if own.required else own.default)}" for own in method.parameters)
    step = f"{method.name}: {{{values}}}" if values else method.name
    two = ["models:", "  - {model: style-lora, name: first}", "  - {model: style-lora, name: second}"]
    chain = [f"method: {{{step}}}" if values else f"method: {step}"]
    if not method.combines:
        chain = ["method:", f"  - {step}", "  - task_arithmetic"]
    return [*two, *chain, "output: {form: adapter, rank: 4}"]
