"""Draws recipes in mergekit's grammar: methods, gradients, filters, slices, types, at every level a value may stand."""

import random
from typing import Any

LAYERS = 4
FILTERS = ("self_attn", "mlp", "layernorm", "norm", "embed", "lm_head", "layers.1.", "q_proj", "model.")
#: Methods without draws of their own, and what their parameters may be; the fewest and most models beside the base.
METHODS: dict[str, tuple[bool, int, int]] = {
    "linear": (False, 1, 4),
    "slerp": (True, 1, 1),
    "task_arithmetic": (True, 1, 3),
    "ties": (True, 1, 3),
    "dare_linear": (True, 1, 3),
    "dare_ties": (True, 1, 3),
    "model_stock": (True, 2, 4),
    "passthrough": (False, 1, 1),
    "nuslerp": (False, 2, 2),
    "multislerp": (False, 2, 4),
    "karcher": (False, 2, 4),
    "nearswap": (True, 1, 1),
    "arcee_fusion": (True, 1, 1),
    "sce": (True, 2, 4),
    "ram": (True, 2, 3),
    "ramplus_tl": (True, 2, 3),
    "breadcrumbs": (True, 1, 3),
    "breadcrumbs_ties": (True, 1, 3),
    "della": (True, 1, 3),
    "della_linear": (True, 1, 3),
}
RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")
_FAMILY = ("task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties", *RANDOM)


def draw(seed: int, methods: list[str]) -> dict[str, Any]:
    """Returns a recipe over the folders base, m1, m2, m3 and m4."""
    own = random.Random(seed)
    method = methods[seed % len(methods)]
    based, low, high = METHODS[method]
    recipe: dict[str, Any] = {"merge_method": method}
    if method in ("nuslerp", "multislerp") and own.random() < 0.5:
        based = True
    models = own.sample(["m1", "m2", "m3", "m4"], own.randint(low, high))
    if based:
        recipe["base_model"] = "base"
    top = _shared(own, method)
    each = {model: _each(own, method) for model in models}
    for name in {name for values in each.values() for name in values}:  # a value given to all stands at the top
        if own.random() < 0.3:
            values = [values.pop(name) for values in each.values() if name in values]
            top[name] = values[0]
    if own.random() < 0.4:
        recipe["slices"] = _slices(own, method, models, each, based=based)
    else:
        entries = [{"model": model, **({"parameters": each[model]} if each[model] else {})} for model in models]
        if based and own.random() < 0.5:
            entries.insert(own.randrange(len(entries) + 1), {"model": "base"})
        recipe["models"] = entries
    if top:
        recipe["parameters"] = top
    if own.random() < 0.5:
        recipe["dtype"] = own.choice(["float32", "bfloat16", "float16", "float64"])
    if own.random() < 0.25:
        recipe["out_dtype"] = own.choice(["float32", "bfloat16", "float16"])
    return recipe


def _slices(
    own: random.Random, method: str, models: list[str], each: dict[str, dict[str, Any]], *, based: bool
) -> list[dict[str, Any]]:
    pieces = []
    for _ in range(own.randint(1, 3)):
        length = own.randint(1, 3)
        chosen = [own.choice(["m1", "m2", "m3", "m4"])] if method == "passthrough" else models
        sources = []
        for model in [*chosen, *(["base"] if based else [])]:
            start = own.randint(0, LAYERS - length)
            source: dict[str, Any] = {"model": model, "layer_range": [start, start + length]}
            if each.get(model):
                source["parameters"] = each[model] if own.random() < 0.7 else _again(own, method, each[model])
            sources.append(source)
        piece: dict[str, Any] = {"sources": sources}
        if own.random() < 0.3 and (shared := _shared(own, method)):
            piece["parameters"] = shared
        pieces.append(piece)
    return pieces


def _again(own: random.Random, method: str, given: dict[str, Any]) -> dict[str, Any]:
    """Other values of the same parameters."""
    drawn = _each(own, method)
    return {name: drawn.get(name, value) for name, value in given.items()}


def _shared(own: random.Random, method: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if method in ("slerp", "nearswap"):
        found["t"] = _setting(own, 0.0, 1.0 if method == "slerp" else 0.02)
    if method in _FAMILY:
        if own.random() < 0.4:
            found["lambda"] = _setting(own, 0.2, 1.5)
        if own.random() < 0.4:
            found["normalize"] = own.choice([True, False])
        if own.random() < 0.4:
            found["rescale"] = own.choice([True, False])
        if own.random() < 0.2:
            found["int8_mask"] = True
    if method == "linear" and own.random() < 0.5:
        found["normalize"] = own.choice([True, False])
    if method == "model_stock" and own.random() < 0.5:
        found["filter_wise"] = own.choice([True, False])
    if method == "multislerp" and own.random() < 0.5:
        found["normalize_weights"] = own.choice([True, False])
    if method == "nuslerp":
        found |= {"nuslerp_flatten": own.choice([True, False]), "nuslerp_row_wise": own.choice([True, False])}
    if method == "karcher" and own.random() < 0.5:
        found |= {"max_iter": own.randint(1, 12), "tol": own.choice([1e-5, 1e-7])}
    if method == "sce" and own.random() < 0.7:
        found["select_topk"] = _setting(own, 0.1, 0.9)
    if method in ("ram", "ramplus_tl") and own.random() < 0.7:
        found["epsilon"] = own.choice([1e-5, 0.01, 0.02])
    return found


def _each(own: random.Random, method: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if method in ("linear", "nuslerp", "multislerp", *_FAMILY):
        found["weight"] = _setting(own, 0.1, 1.2)
    if method in ("ties", "breadcrumbs", "breadcrumbs_ties"):
        found["density"] = _setting(own, 0.2, 1.0)
    if method.startswith("breadcrumbs") and own.random() < 0.5:
        found["gamma"] = _setting(own, 0.0, 0.2)
    if method == "passthrough" and own.random() < 0.5:
        found["scale"] = _setting(own, 0.0, 1.5)
    return found


def _setting(own: random.Random, low: float, high: float) -> Any:
    """A number, a gradient, or conditions over either that end with one for all."""
    if own.random() < 0.3:
        filters = own.sample(FILTERS, own.randint(1, 2))
        cases: list[dict[str, Any]] = [{"filter": each, "value": _value(own, low, high)} for each in filters]
        return [*cases, {"value": _value(own, low, high)}]
    return _value(own, low, high)


def _value(own: random.Random, low: float, high: float) -> Any:
    if own.random() < 0.35:
        return [round(own.uniform(low, high), 3) for _ in range(own.randint(1, 5))]
    return round(own.uniform(low, high), 3)
