"""The `mk_*` cases: mergekit's `config.yml` as one of our recipes, setting by setting, tensor by tensor.

Every setting is evaluated here, in Python, at every output tensor; what comes out equal everywhere is written once, the
rest as one rule per tensor. So the recipe says exactly what mergekit would have computed, traps included.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from eutectic import errors

from .cases import Case, check_config, check_equal, read_weights
from .draws import check_invariants
from .mergekit_config import Config, Feed, Slice, Target, read_config
from .merging import merge

SIZES = {"K": 10**3, "M": 10**6, "B": 10**9}
TRIM = {"scope": "tensor", "count": "exact"}
MIDDLE = {"scope": "tensor", "first": "density"}
VOTE = {"density": 1.0, "tie": "plus"}
#: What a sparsifier takes of each input beside the density, and mergekit's default.
BESIDE = {"breadcrumbs": ("gamma", 0.01), "della": ("epsilon", 0.15)}


class Values(NamedTuple):
    """What a method wants to know at a tensor: shared parameters, and parameters of each input."""

    shared: dict[str, Any]
    each: Callable[[Feed], dict[str, Any]]


def knows(case: Case) -> bool:
    """Tells whether this is a mergekit run of a method that we translate."""
    config = case.folder / "config.yml"
    return config.is_file() and read_config(case.folder).method in METHODS


def check(case: Case, tmp_path: Path) -> None:
    """Runs the translated recipe and holds it against mergekit's output, its refusal, or a draw's invariants."""
    facts, out = case.facts, tmp_path / "out"
    if facts["expect"] == "error":
        with pytest.raises(errors.EutecticError) as refused:
            merge(translate(read_config(case.folder), facts["cli_args"]), out)
        assert str(refused.value)
        assert not out.exists()
        return
    config = read_config(case.folder)
    merge(translate(config, facts["cli_args"]), out)
    if facts["expect"] == "random":
        base, expert = (config.models[name].path for name in (config.base, _experts(config)[0]) if name)
        check_invariants(facts["invariants"], *map(read_weights, map(Path, (base, expert, str(out)))))
        return
    want = case.folder / "output"
    tolerance = facts.get("compare_if_fp32_accumulate", facts["compare"])
    skip = threshold_ties(config) if facts["compare"].get("mode") == "skip_threshold_ties" else None
    check_equal(read_weights(out), read_weights(want), tolerance, skip)
    check_config(out, want, bool(config.dtype or config.out_dtype))
    if "--out-shard-size" in facts["cli_args"]:
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == read_weights(want).keys()


def translate(config: Config, flags: list[str]) -> dict[str, Any]:
    """Writes a mergekit recipe as ours.

    Raises:
        RecipeError: when a setting that the method requires is given nowhere.
    """
    method = METHODS[config.method]
    base = config.base if method.base else None
    inputs = list(dict.fromkeys(s.model for part in config.slices for s in part.sources if s.model != base))
    names = {model: f"m{index}" for index, model in enumerate(inputs)}
    targets = config.targets()
    rules = _Rules()
    for target in targets:
        values = method.values(config, target)
        rules.add_shared(target.name, values.shared)
        for feed in target.feeds:
            if feed.model != base:
                rules.add_each(target.name, names[feed.model], values.each(feed))
    entries = [{"model": config.models[m].path, "name": names[m], **rules.for_model(names[m])} for m in inputs]
    recipe: dict[str, Any] = {"models": entries, "method": method.chain(config, rules), "rules": rules.rest()}
    if base:
        recipe["base"] = config.models[base].path
    if not config.whole:
        recipe["slices"] = [_slice(part, base, names) for part in config.slices]
        recipe["rules"] += _outside_the_blocks(config, targets, names)
    recipe["output"] = _output(config, flags)
    recipe["vocabulary"] = "truncate" if "--unsafe-truncate-embeddings" in flags else "error"
    recipe["seed"] = int(flags[flags.index("--random-seed") + 1]) if "--random-seed" in flags else 0
    return recipe


class _Rules:
    """Collects values tensor by tensor, then writes the constant ones once and the others as rules."""

    def __init__(self) -> None:
        self._shared: dict[str, dict[str, Any]] = {}
        self._each: dict[tuple[str, str], dict[str, Any]] = {}

    def add_shared(self, tensor: str, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            self._shared.setdefault(key, {})[tensor] = value

    def add_each(self, tensor: str, model: str, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            self._each.setdefault((model, key), {})[tensor] = value

    def for_step(self, step: str) -> dict[str, Any]:
        """A step's parameters; where one varies, its value at the first tensor, and the rules say the rest."""
        found = ((key.partition("."), values) for key, values in self._shared.items())
        return {key: next(iter(values.values())) for (owner, _, key), values in found if owner == step}

    def for_model(self, model: str) -> dict[str, Any]:
        found = ((key, values) for (owner, key), values in self._each.items() if owner == model)
        return {key: next(iter(values.values())) for key, values in found}

    def rest(self) -> list[dict[str, Any]]:
        rules: list[dict[str, Any]] = []
        for key, values in self._shared.items():
            rules += [{"match": name, "set": {key: value}} for name, value in values.items() if _varies(values)]
        for (model, key), values in self._each.items():
            rules += [
                {"match": name, "models": [model], "set": {key: value}}
                for name, value in values.items()
                if _varies(values)
            ]
        return rules


def _varies(values: Mapping[str, Any]) -> bool:
    return len(set(values.values())) > 1


def _slice(part: Slice, base: str | None, names: Mapping[str, str]) -> dict[str, Any]:
    """Writes one slice; mergekit lists the base among the sources, we say where its blocks begin."""
    written: dict[str, Any] = {
        "sources": [{"model": names[s.model], "blocks": [s.start, s.stop]} for s in part.sources if s.model != base]
    }
    for source in part.sources:
        if source.model == base:
            written["base_blocks"] = [source.start, source.stop]
    return written


def _outside_the_blocks(config: Config, targets: list[Target], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Takes embeddings, final norm and head from the one model their slice has, when the slices differ in models."""
    members = {frozenset(source.model for source in part.sources) for part in config.slices}
    if len(members) == 1:
        return []
    assert config.method == "passthrough", "slices of different models are translated for passthrough only"
    return [
        {"match": target.name, "keep": names[target.feeds[0].model]}
        for target in targets
        if ".layers." not in target.name
    ]


def _output(config: Config, flags: list[str]) -> dict[str, Any]:
    stored = {dtype for model in config.models.values() for dtype in model.dtypes.values()}
    words = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    promoted = words[stored.pop()] if len(stored) == 1 else "float32"
    output: dict[str, Any] = {"dtype": config.out_dtype or config.dtype or promoted}
    if "--out-shard-size" in flags:
        size = flags[flags.index("--out-shard-size") + 1]
        output["shard_size"] = int(size[:-1]) * SIZES[size[-1]]
    return output


def _experts(config: Config) -> list[str]:
    return [source.model for source in config.slices[0].sources if source.model != config.base]


def _required(target: Target, feed: Feed, key: str) -> float:
    value = target.of(feed, key)
    if value is None:
        raise errors.RecipeError(f"{feed.model}: mergekit requires {key}, and {feed.name} has none; add {key}")
    return float(value)


def _shared(target: Target, key: str, default: Any) -> Any:
    value = target.shared(key)
    return default if value is None else value


def _share(target: Target, feed: Feed) -> float:
    """The density; mergekit keeps everything from 1 on and nothing from 0 down."""
    value = target.of(feed, "density")
    return min(max(float(1.0 if value is None else value), 0.0), 1.0)


class Translation(NamedTuple):
    """How one method is written: does it have a base, its chain, and its values at a tensor."""

    base: bool
    chain: Callable[[Config, _Rules], list[Any]]
    values: Callable[[Config, Target], Values]


def _linear(_: Config, target: Target) -> Values:
    return Values(
        {"linear.normalize": bool(_shared(target, "normalize", True))},
        lambda feed: {"linear.weight": _required(target, feed, "weight")},
    )


def _slerp(_: Config, target: Target) -> Values:
    t = target.shared("t")
    if t is None:
        raise errors.RecipeError(f"mergekit's slerp requires t, and {target.name} has none; add t")
    return Values({"slerp.t": float(t)}, lambda feed: {})


def _nuslerp(config: Config, target: Target) -> Values:
    """The reference's `row_wise` runs along the first axis, against its documentation."""
    scope = "column" if _shared(target, "nuslerp_row_wise", False) else "row"
    scope = "tensor" if _shared(target, "nuslerp_flatten", True) else scope
    shared = {"nuslerp.of": "deltas" if config.base else "weights", "nuslerp.scope": scope}
    return Values(shared, lambda feed: {"nuslerp.weight": _required(target, feed, "weight")})


def _multislerp(config: Config, target: Target) -> Values:
    shared = {
        "multislerp.of": "deltas" if config.base else "weights",
        "multislerp.normalize": bool(_shared(target, "normalize_weights", True)),
        "multislerp.eps": float(_shared(target, "eps", 1e-8)),
    }
    return Values(shared, lambda feed: {"multislerp.weight": _required(target, feed, "weight")})


def _karcher(_: Config, target: Target) -> Values:
    tol = float(_shared(target, "tol", 1e-5))
    shared = {"karcher.max_iter": int(_shared(target, "max_iter", 10)), "karcher.tol": tol, "karcher.floor": tol}
    return Values(shared, lambda feed: {})


def _nearswap(_: Config, target: Target) -> Values:
    t = target.shared("t")
    if t is None:
        raise errors.RecipeError(f"mergekit's nearswap requires t, and {target.name} has none; add t")
    return Values({"nearswap.t": float(t)}, lambda feed: {})


def _model_stock(_: Config, target: Target) -> Values:
    return Values({"model_stock.rows": bool(_shared(target, "filter_wise", False))}, lambda feed: {})


def _passthrough(_: Config, target: Target) -> Values:
    scale = target.of(target.feeds[0], "scale")
    return Values({"passthrough.scale": 1.0 if scale is None else float(scale)}, lambda feed: {})


def _sce(_: Config, target: Target) -> Values:
    return Values({"sce.select_topk": min(max(float(_shared(target, "select_topk", 1.0)), 0.0), 1.0)}, lambda feed: {})


def _ram(plus: bool) -> Callable[[Config, Target], Values]:
    """The sums of what single models changed; the second kind strengthens them."""

    def values(_: Config, target: Target) -> Values:
        shared = {"ram.epsilon": float(_shared(target, "epsilon", 1e-5))}
        if plus:
            shared |= {"ram.r": float(_shared(target, "r", 0.1)), "ram.alpha": float(_shared(target, "alpha", 0.2))}
        return Values(shared, lambda feed: {})

    return values


def _sum(sparsify: str | None, rescale: bool) -> Callable[[Config, Target], Values]:
    """The family's members without sign election: base + lambda sum w d [/ sum w]."""

    def values(_: Config, target: Target) -> Values:
        shared = {
            "task_arithmetic.normalize": bool(_shared(target, "normalize", False)),
            "task_arithmetic.scale": float(_shared(target, "lambda", 1.0)),
        }
        return _sparse(target, sparsify, rescale, "task_arithmetic", shared)

    return values


def _elect(sparsify: str, normalize: bool, rescale: bool) -> Callable[[Config, Target], Values]:
    """The family's members with sign election; the divisor is the sum of the agreeing weights, or none."""

    def values(_: Config, target: Target) -> Values:
        divide = bool(_shared(target, "normalize", normalize))
        shared = {"ties.average": "weight" if divide else "sum", "ties.scale": float(_shared(target, "lambda", 1.0))}
        return _sparse(target, sparsify, rescale, "ties", shared)

    return values


def _sparse(target: Target, sparsify: str | None, rescale: bool, combine: str, shared: dict[str, Any]) -> Values:
    if sparsify:
        shared[f"{sparsify}.rescale"] = "l1" if _shared(target, "rescale", rescale) else "none"

    def each(feed: Feed) -> dict[str, Any]:
        found = {f"{combine}.weight": _required(target, feed, "weight")}
        if sparsify:
            found[f"{sparsify}.density"] = _share(target, feed)
        if sparsify in BESIDE:
            key, default = BESIDE[sparsify]
            value = target.of(feed, key)
            found[f"{sparsify}.{key}"] = default if value is None else float(value)
        return found

    return Values(shared, each)


def _chain(*steps: tuple[str, dict[str, Any]]) -> Callable[[Config, _Rules], list[Any]]:
    """Names the steps, with the values that mergekit fixes and those collected from its settings."""

    def write(_: Config, rules: _Rules) -> list[Any]:
        return [{step: {**fixed, **rules.for_step(step)}} for step, fixed in steps]

    return write


METHODS = {
    "linear": Translation(False, _chain(("linear", {})), _linear),
    "slerp": Translation(True, _chain(("slerp", {})), _slerp),
    "nuslerp": Translation(True, _chain(("nuslerp", {})), _nuslerp),
    "multislerp": Translation(True, _chain(("multislerp", {})), _multislerp),
    "karcher": Translation(False, _chain(("karcher", {})), _karcher),
    "nearswap": Translation(True, _chain(("nearswap", {})), _nearswap),
    "arcee_fusion": Translation(True, _chain(("arcee_fusion", {})), lambda _, __: Values({}, lambda feed: {})),
    "passthrough": Translation(False, _chain(("passthrough", {})), _passthrough),
    "model_stock": Translation(True, _chain(("model_stock", {"angle": "cosine", "floor": 1e-6})), _model_stock),
    "task_arithmetic": Translation(True, _chain(("task_arithmetic", {})), _sum(None, False)),
    "ties": Translation(True, _chain(("trim", TRIM), ("ties", VOTE)), _elect("trim", True, False)),
    "dare_linear": Translation(True, _chain(("dare", {}), ("task_arithmetic", {})), _sum("dare", True)),
    "dare_ties": Translation(True, _chain(("dare", {}), ("ties", VOTE)), _elect("dare", False, True)),
    "breadcrumbs": Translation(
        True, _chain(("breadcrumbs", MIDDLE), ("task_arithmetic", {})), _sum("breadcrumbs", False)
    ),
    "breadcrumbs_ties": Translation(
        True, _chain(("breadcrumbs", MIDDLE), ("ties", VOTE)), _elect("breadcrumbs", False, False)
    ),
    "della": Translation(True, _chain(("della", {}), ("ties", VOTE)), _elect("della", True, True)),
    "della_linear": Translation(True, _chain(("della", {}), ("task_arithmetic", {})), _sum("della", True)),
    "sce": Translation(True, _chain(("sce", {"mask": "deltas", "floor": 1e-6})), _sce),
    "ram": Translation(True, _chain(("ram", {"scope": "tensor"})), _ram(False)),
    "ramplus_tl": Translation(True, _chain(("ram", {"scope": "tensor"})), _ram(True)),
}


def threshold_ties(config: Config) -> dict[str, torch.Tensor]:
    """Marks where some expert's |delta|, computed in bf16, equals the k-th largest of its tensor.

    Which of the equal ones survive depends on the reference's unstable sort.
    """
    assert config.base is not None
    weights = {name: read_weights(Path(model.path)) for name, model in config.models.items()}
    marks: dict[str, torch.Tensor] = {}
    for target in config.targets():
        base = next(feed for feed in target.feeds if feed.model == config.base)
        start = weights[base.model][base.name].bfloat16()
        marks[target.name] = torch.zeros(start.shape, dtype=torch.bool)
        for feed in target.feeds:
            density = _share(target, feed)
            if feed.model == config.base or density >= 1:
                continue
            size = (weights[feed.model][feed.name].bfloat16() - start).abs()
            count = max(1, int(density * size.numel()))
            marks[target.name] |= size == size.flatten().float().topk(count).values[-1].bfloat16()
    return marks
