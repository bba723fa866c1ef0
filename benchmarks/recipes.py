"""The recipes that are measured, ours and mergekit's side by side."""

from pathlib import Path
from typing import Any

#: By name: the method of the recipe, and how many experts it takes at most (None: all).
METHODS: dict[str, tuple[Any, int | None]] = {
    "linear": ("linear", None),
    "task_arithmetic": ({"task_arithmetic": {"scale": 0.4}}, None),
    "slerp": ({"slerp": {"t": 0.5}}, 1),
    "dare": ([{"dare": {"density": 0.5}}, {"task_arithmetic": {"scale": 0.4}}], None),
    "ties_tensor": ({"ties": {"density": 0.2, "scope": "tensor"}}, None),
    "ties_model": ({"ties": {"density": 0.2, "scope": "model"}}, None),
    "model_stock": ("model_stock", None),
    "emr": ("emr", None),
    "tall_masks": ("tall_masks", None),
    "consensus": ("consensus", None),
    "nuslerp": ({"nuslerp": {"of": "deltas"}}, 2),
    "nuslerp_rows": ({"nuslerp": {"of": "deltas", "scope": "row"}}, 2),
    "multislerp": ({"multislerp": {"of": "deltas"}}, None),
    "karcher": ("karcher", None),
    "geometric_median": ({"geometric_median": {"scope": "tensor"}}, None),
    "nearswap": ({"nearswap": {"t": 0.001}}, 1),
    "arcee_fusion": ("arcee_fusion", 1),
    "passthrough": ("passthrough", 1),
    "breadcrumbs": ([{"breadcrumbs": {"density": 0.5, "gamma": 0.01}}, {"task_arithmetic": {"scale": 0.4}}], None),
    "breadcrumbs_tensor": (
        [{"breadcrumbs": {"density": 0.5, "gamma": 0.01, "scope": "tensor"}}, {"task_arithmetic": {"scale": 0.4}}],
        None,
    ),
    "della": ([{"della": {"density": 0.5}}, {"ties": {"density": 1.0}}], None),
    "sce": ({"sce": {"select_topk": 0.1}}, None),
    "ram": ("ram", None),
    "ram_plus": ({"ram": {"r": 0.05}}, None),
    "magmax": ("magmax", None),
    "pcb": ("pcb", None),
}
#: Methods that read the models and no base.
BASELESS = {"linear", "karcher", "geometric_median", "passthrough"}

#: What mergekit's methods of the family compute, in our steps.
_VOTE = {"density": 1.0, "average": "weight", "tie": "plus"}
_MIDDLE = {"breadcrumbs": {"density": 0.5, "gamma": 0.01, "scope": "tensor", "first": "density"}}
_EACH = {"each": {"weight": 1.0, "density": 0.5}}
AS_MERGEKIT: dict[str, tuple[Any, dict[str, Any], int | None]] = {
    "ties": (
        [{"trim": {"density": 0.2, "scope": "tensor", "count": "exact"}}, {"ties": _VOTE}],
        {"each": {"weight": 1.0, "density": 0.2}},
        None,
    ),
    "dare_ties": (
        [{"dare": {"density": 0.5, "rescale": "l1"}}, {"ties": {**_VOTE, "average": "sum"}}],
        {"each": {"weight": 1.0, "density": 0.5}},
        None,
    ),
    "slerp": ({"slerp": {"t": 0.5}}, {"shared": {"t": 0.5}}, 1),
    "linear": ("linear", {"each": {"weight": 1.0}}, None),
    "task_arithmetic": ("task_arithmetic", {"each": {"weight": 1.0}}, None),
    "dare_linear": ([{"dare": {"density": 0.5, "rescale": "l1"}}, "task_arithmetic"], _EACH, None),
    "breadcrumbs": ([_MIDDLE, "task_arithmetic"], _EACH, None),
    "breadcrumbs_ties": ([_MIDDLE, {"ties": {**_VOTE, "average": "sum"}}], _EACH, None),
    "della": ([{"della": {"density": 0.5, "rescale": "l1"}}, {"ties": _VOTE}], _EACH, None),
    "della_linear": ([{"della": {"density": 0.5, "rescale": "l1"}}, "task_arithmetic"], _EACH, None),
    "sce": ({"sce": {"select_topk": 0.1, "mask": "deltas", "floor": 1e-6}}, {"shared": {"select_topk": 0.1}}, None),
    "ram": ({"ram": {"scope": "tensor"}}, {}, None),
    "ramplus_tl": ({"ram": {"scope": "tensor", "r": 0.1, "alpha": 0.2}}, {}, None),
    "nuslerp": ({"nuslerp": {"of": "deltas"}}, {"each": {"weight": 1.0}}, 2),
    "multislerp": ({"multislerp": {"of": "deltas"}}, {"each": {"weight": 1.0}}, None),
    "karcher": ({"karcher": {"floor": 1e-5}}, {}, None),
    "nearswap": ({"nearswap": {"t": 0.001}}, {"shared": {"t": 0.001}}, 1),
    "arcee_fusion": ("arcee_fusion", {}, 1),
    "model_stock": ({"model_stock": {"floor": 1e-6}}, {}, None),
    "passthrough": ("passthrough", {}, 1),
}
#: Methods of mergekit that list the base among their two models.
LISTS_BASE = {"slerp", "nearswap", "arcee_fusion"}


def inputs_of(name: str, base: Path, experts: list[Path]) -> list[Path]:
    """Returns the folders a method reads; the base first where it has one, and among the models where it reads none."""
    most = METHODS[name][1]
    chosen = experts if most is None else experts[:most]
    return chosen if name == "passthrough" else [base, *chosen]


def recipe(name: str, base: Path, experts: list[Path]) -> dict[str, Any]:
    """Returns the recipe of a method; one without a base merges the base with the experts, so that all read alike."""
    method, _ = METHODS[name]
    inputs = inputs_of(name, base, experts)
    if name in BASELESS:
        return {"models": [str(path) for path in inputs], "method": method}
    return {"base": str(base), "models": [str(path) for path in inputs[1:]], "method": method}


def pair(name: str, base: Path, experts: list[Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns one merge as our recipe and as mergekit's."""
    method, settings, most = AS_MERGEKIT[name]
    chosen = experts if most is None else experts[:most]
    ours: dict[str, Any] = {"models": [str(path) for path in chosen], "method": method}
    theirs: dict[str, Any] = {"merge_method": name, "dtype": "bfloat16"}
    theirs["models"] = [{"model": str(path), "parameters": settings.get("each", {})} for path in chosen]
    if name in LISTS_BASE:
        theirs["models"].insert(0, {"model": str(base)})
    if name not in BASELESS:
        ours["base"] = theirs["base_model"] = str(base)
    if "shared" in settings:
        theirs["parameters"] = settings["shared"]
    return ours, theirs
