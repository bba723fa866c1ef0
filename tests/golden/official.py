"""The `ref_*` cases: the recipes that reproduce the authors' own code."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

import eutectic

from . import tasks
from .cases import Case, check_equal, read_weights
from .merging import merge

Recipe = dict[str, Any]
EXACT = {"rtol": 0.0, "atol": 0.0}
TIES_NAME = re.compile(r"K(?P<keep>[\d.]+)_dis_(?P<merge>mean|sum|max)_lam(?P<scale>[\d.]+)")


def knows(case: Case) -> bool:
    """Tells whether there is a recipe for this output of this case."""
    return case.folder.name in RECIPES and case.output is not None


def check(case: Case, tmp_path: Path) -> None:
    """Runs the recipe of one output and holds the merged weights against the authors' file."""
    want = read_weights(case.folder / f"out_{case.output}.safetensors")
    recipe = RECIPES[case.folder.name](case, tmp_path)
    got = tasks.read(case, merge(recipe, tmp_path / "out"), tmp_path)
    excluded = case.facts["params"].get("exclude_regex", [])
    kept = {name: value for name, value in got.items() if not _matches(name, excluded)}
    check_equal(kept, want, case.facts["compare"])


def _recipe(case: Case, method: Any, weights: Mapping[int, float] | None = None, base: bool = True) -> Recipe:
    """A recipe over the case's experts, or over those that `weights` names."""
    experts = len(list(case.folder.glob("expert_*.safetensors")))
    weights = dict.fromkeys(range(experts), 1.0) if weights is None else weights
    models = [{"model": str(case.folder / f"expert_{i}.safetensors"), "weight": w} for i, w in weights.items()]
    recipe: Recipe = {"models": models, "method": method}
    if base:
        recipe["base"] = str(case.folder / "base.safetensors")
    return recipe


def _task_arithmetic(case: Case, _: Path) -> Recipe:
    params = case.facts["params"]
    scale = params[f"{case.output}_scaling"]
    weights = {"add": None, "negate": {params.get("negate_expert", 0): -1.0}, "analogy": {0: -1.0, 1: 1.0, 2: 1.0}}
    return _recipe(case, {"task_arithmetic": {"scale": scale}}, weights[str(case.output)])


def _ties(case: Case, _: Path) -> Recipe:
    variant = TIES_NAME.fullmatch(str(case.output))
    assert variant, f"cannot read the parameters off {case.output}"
    chosen = {
        "density": float(variant["keep"]) / 100,
        "average": {"mean": "count", "sum": "sum", "max": "max"}[variant["merge"]],
        "scale": float(variant["scale"]),
    }
    return _recipe(case, {"ties": {"scope": "model", "count": "official", "tie": "majority", **chosen}})


def _mergelm(case: Case, _: Path) -> Recipe:
    params = case.facts["params"]
    ties = {"density": 1 - params["param_value_mask_rate"], "count": "mask_rate", "scale": params["ties_scaling"]}
    methods: dict[str, Any] = {
        "average": "linear",
        "task_arithmetic": {"task_arithmetic": {"scale": params["ta_scaling"]}},
        "ties": {"ties": {"scope": "model", "average": "count", "tie": "majority", **ties}},
    }
    recipe = _recipe(case, methods[str(case.output)])
    names = read_weights(case.folder / "base.safetensors")
    recipe["rules"] = [{"match": n, "keep": "base"} for n in names if _matches(n, params["exclude_regex"])]
    return recipe


def _magnitude_mask(case: Case, tmp_path: Path) -> Recipe:
    """Drops int(n p) of each tensor; on finished weights rather than deltas, the base is a model of zeros."""
    rate = case.facts["params"]["mask_rate"]
    scale = 1 / (1 - rate) if str(case.output).endswith("rescale1") else 1.0
    trim = {"scope": "tensor", "count": "exact", "density": 1 - rate}
    chain = [{"trim": trim}, {"task_arithmetic": {"scale": scale}}]
    recipe = _recipe(case, chain)
    base = read_weights(case.folder / "base.safetensors")
    # n - int(n p) and int(n (1 - p)) differ by one here and there; half an element more says which is meant.
    recipe["rules"] = [
        {"match": name, "set": {"trim.density": (value.numel() - int(value.numel() * rate) + 0.5) / value.numel()}}
        for name, value in base.items()
    ]
    if str(case.output).startswith("finetuned_weight"):
        zeros = tmp_path / "zeros.safetensors"
        save_file({name: value * 0 for name, value in base.items()}, zeros)
        recipe["base"] = str(zeros)
    return recipe


def _model_stock(case: Case, _: Path) -> Recipe:
    weights = {"three": {0: 1.0, 1: 1.0, 2: 1.0}, "two": {0: 1.0, 1: 1.0}}[str(case.output)]
    return _without_weights(_recipe(case, {"model_stock": {"angle": "angle"}}, weights))


def _breadcrumbs(case: Case, _: Path) -> Recipe:
    params = case.facts["params"]
    middle = {"density": params["top_k_keep"], "gamma": params["top_k_remove"]}
    return _recipe(case, [{"breadcrumbs": middle}, {"task_arithmetic": {"scale": params["alpha"]}}])


def _sce(case: Case, _: Path) -> Recipe:
    return _without_weights(_recipe(case, {"sce": {"select_topk": float(str(case.output).removeprefix("topk"))}}))


def _pcb(case: Case, _: Path) -> Recipe:
    params = case.facts["params"]
    formulas = {
        "keysteps": {"inter": "sum", "clip": 1e-4, "ratio": params["keysteps_pcb_ratio"]},
        "vision_es": {"inter": "pairs", "clip": 0.01, "ratio": params["vision_pcb_ratio"]},
    }
    return _recipe(case, {"pcb": {"scale": params["lam"], **formulas[str(case.output)]}})


def _lines(case: Case, _: Path) -> Recipe:
    """Scales task vectors by depth: the sum of all, or one alone."""
    params = case.facts["params"]
    if case.output == "ta_sum":
        return _recipe(case, {"task_arithmetic": {"scale": {"lines": {"beta": params["ta_beta"]}}}})
    rise = {"alpha": params["single_alpha"], "beta": params["single_beta"]}
    return _recipe(case, {"task_arithmetic": {"scale": {"lines": rise}}}, {0: 1.0})


def _magmax(case: Case, _: Path) -> Recipe:
    return _recipe(case, {"magmax": {"scale": case.facts["params"]["scaling_factor"]}})


def _averages(case: Case, _: Path) -> Recipe:
    """Averages along a run, by name in natural order; expert 0 is the oldest."""
    params = case.facts["params"]
    weights: dict[str, Any] = {
        "pma_sma": "sma",
        "pma_wma": "wma",
        "pma_ema": {"ema": {"decay": 1 - params["pma_alpha"]}},
        "torch_swa": "sma",
        "torch_ema_decay": {"ema": {"decay": params["torch_ema_decay"]}},
    }
    run = str(case.folder / "expert_*.safetensors")
    return {"models": run, "method": {"linear": {"weight": weights[str(case.output)]}}}


def _soups(case: Case, tmp_path: Path) -> Recipe:
    """The uniform soup; the greedy one is searched for, by the case's score, and must find the case's ingredients."""
    if case.output == "uniform":
        return _recipe(case, "linear", base=False)
    target = read_weights(case.folder / "out_score_target.safetensors")

    def score(folder: Path) -> float:
        found = read_weights(folder)
        return -sum(float((found[name].double() - value.double()).square().sum()) for name, value in target.items())

    soup = eutectic.greedy_soup(str(case.folder / "expert_*.safetensors"), score, out=tmp_path / "soup")
    params = case.facts["params"]
    assert soup.scores == pytest.approx(params["individual_scores"], rel=1e-6)
    names = [Path(name).stem.replace("expert", "model") for name in soup.ingredients]
    assert names == params["greedy_ingredients"]
    check_equal(read_weights(tmp_path / "soup"), read_weights(merge(soup.recipe.to_dict(), tmp_path / "again")), EXACT)
    return soup.recipe.to_dict()


def _scaled(case: Case, tmp_path: Path, recipe: Recipe) -> Recipe:
    """Of a merged delta that was recorded before the base is added, the base is a model of zeros."""
    if not str(case.output).startswith("delta_"):
        return recipe
    paths = []
    base = read_weights(Path(recipe["base"]))
    for entry in recipe["models"]:
        paths.append(tmp_path / Path(entry["model"]).name)
        own = read_weights(Path(entry["model"]))
        save_file({name: value - base[name] for name, value in own.items()}, paths[-1])
        entry["model"] = str(paths[-1])
    save_file({name: value * 0 for name, value in base.items()}, tmp_path / "zeros.safetensors")
    recipe["base"] = str(tmp_path / "zeros.safetensors")
    return recipe


def _tsv_m(case: Case, tmp_path: Path) -> Recipe:
    variants = {
        "delta_lossless_svd": {"keep": "all"},
        "delta_rank_reduction_only": {"whiten": False},
        "delta_svd": {"exact": True},
        "merged_svd_alpha": {"scale": case.facts["params"]["alpha"]},
    }
    own = {"tensors": "matrices"} | variants.get(str(case.output), {})
    return _scaled(case, tmp_path, _recipe(case, {"tsv_m": own}))


def _iso(case: Case, tmp_path: Path) -> Recipe:
    params = case.facts["params"]
    name = "iso_cts" if str(case.output).endswith("cts") else "iso_c"
    own: dict[str, Any] = {"tensors": "matrices"}
    own |= {"common": params["common_space_fraction"]} if name == "iso_cts" else {}
    own |= {"scale": params[f"alpha_{name}"]} if str(case.output).startswith("merged") else {}
    return _scaled(case, tmp_path, _recipe(case, {name: own}))


def _wudi(case: Case, _: Path) -> Recipe:
    return _recipe(case, {"wudi": {"steps": int(str(case.output).removeprefix("iter"))}})


def _wudi_port(case: Case, _: Path) -> Recipe:
    params = case.facts["params"]
    own = {"steps": params["iter_num"], "tensors": "matrices", "others": "mean"}
    recipe = _recipe(case, {"wudi": own})
    recipe["rules"] = [{"match": name, "method": "linear"} for name in params["exclude_keys"]]
    return recipe


def _doge(case: Case, _: Path) -> Recipe:
    params = case.facts["params"]
    own = {"divisor": params["subspace"], "density": params["K"] / 100, "strength": params["lamda"]}
    return _recipe(case, {"doge": own})


def _emr(case: Case, _: Path) -> Recipe:
    return _without_weights(_recipe(case, "emr"))


def _tall_consensus(case: Case, _: Path) -> Recipe:
    """Masks at the threshold an output names; consensus at the case's own, counted from k tasks on."""
    params = case.facts["params"]
    selected, _, k = str(case.output).rpartition("consensus_ta_k")
    if k.isdigit() and not selected:
        chosen = {"threshold": params["selected_lambda_all_tasks"], "scale": params["consensus_alpha"]}
        return _without_weights(_recipe(case, {"consensus": {"least": int(k), **chosen}}))
    threshold = float(str(case.output).partition("_lam")[2].partition("_")[0])
    return _without_weights(_recipe(case, {"tall_masks": {"threshold": threshold}}))


def _tsv_c(case: Case, _: Path) -> Recipe:
    assert case.facts["params"]["scaling"] == 1
    return _without_weights(_recipe(case, "tsv_c"))


def _without_weights(recipe: Recipe) -> Recipe:
    for entry in recipe["models"]:
        del entry["weight"]
    return recipe


def _matches(name: str, patterns: list[str]) -> bool:
    return any(re.match(pattern, name) for pattern in patterns)


RECIPES: dict[str, Callable[[Case, Path], Recipe]] = {
    "ref_breadcrumbs_official": _breadcrumbs,
    "ref_ckpt_averages": _averages,
    "ref_fb_magmax": _magmax,
    "ref_fb_doge_ta": _doge,
    "ref_emr": _emr,
    "ref_fb_model_stock": _model_stock,
    "ref_fb_wudi": _wudi_port,
    "ref_iso": _iso,
    "ref_lines": _lines,
    "ref_mergelm_magnitude_mask": _magnitude_mask,
    "ref_mergelm_ties": _mergelm,
    "ref_model_soups": _soups,
    "ref_pcb": _pcb,
    "ref_sce_official": _sce,
    "ref_tall_consensus": _tall_consensus,
    "ref_task_arithmetic": _task_arithmetic,
    "ref_ties": _ties,
    "ref_ties_zero_sign": _ties,
    "ref_tsvm": _tsv_m,
    "ref_wudi": _wudi,
    "ref_tsvc": _tsv_c,
}
