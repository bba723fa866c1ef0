"""Recipes drawn in mergekit's grammar, merged by mergekit and by us: the outputs agree."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

import eutectic
from eutectic.recipe.mergekit.methods import METHODS

from . import theirs
from .drawn import METHODS as DRAWN
from .drawn import draw
from .tiny import write_model

#: What counts as equal, by the type the work is done in: relative and absolute. mergekit rounds every step to it.
TOLERANCE = {"float32": (2e-5, 1e-6), "float64": (2e-5, 1e-6), "float16": (4e-3, 1e-3), "bfloat16": (2.4e-2, 6e-3)}
#: Methods whose result mergekit leaves in float32, whatever dtype the recipe sets and config.json says.
WIDE = ("arcee_fusion", "ramplus_tl")
#: Methods that choose elements by magnitude or sign: where rounding moves one across the border, it differs.
CHOOSING = ("ties", "breadcrumbs", "sce", "arcee_fusion", "ram", "della", "dare")


def tolerated(recipe: dict[str, Any]) -> tuple[float, float, float]:
    """Returns the relative and absolute tolerance, and the share of elements that may lie beyond."""
    types = [recipe.get("dtype", "float32"), recipe.get("out_dtype", "float32")]
    narrow = next((each for each in ("bfloat16", "float16") if each in types), types[0])
    if recipe["merge_method"] == "karcher" and narrow in ("bfloat16", "float16"):
        return 5e-2, 3e-2, 0.0  # it keeps its unit vectors in that type
    if recipe["merge_method"] == "arcee_fusion" and types[0] in ("bfloat16", "float16"):
        return (*TOLERANCE[narrow], 0.15)  # it compares softmaxes in that type
    chooses = any(recipe["merge_method"].startswith(each) for each in CHOOSING)
    share = 0.0 if not chooses else 0.05 if types[0] in ("bfloat16", "float16") else 0.002
    return (*TOLERANCE[narrow], share)


@pytest.mark.slow
def test_drawn_recipes_agree(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Names, shapes, types and values, over recipes of every method; what mergekit refuses we may not merge quietly."""
    if theirs.interpreter() is None:
        pytest.skip(f"mergekit is not installed; name its mergekit-yaml by {theirs.VARIABLE}")
    for seed, name in enumerate(["base", "m1", "m2", "m3", "m4"]):
        write_model(tmp_path / name, seed)
    first = request.config.getoption("drawn_from", default=0)  # the options are there when this folder is named
    count = request.config.getoption("drawn", default=60)
    from eutectic.methods import METHODS as OURS

    methods = [name for name in DRAWN if all(s.method in OURS for s in METHODS[name].chain)]
    recipes = {seed: draw(seed, methods) for seed in range(first, first + count)}
    jobs = []
    for seed, recipe in recipes.items():
        YAML(typ="safe").dump(recipe, tmp_path / f"{seed}.yml")
        jobs.append(theirs.job(tmp_path / f"{seed}.yml", tmp_path / f"{seed}-theirs", folder=tmp_path))
    said = theirs.run(jobs, tmp_path)
    wrong, refused = [], 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for (seed, recipe), refusal in zip(recipes.items(), said, strict=True):
            found = compare(seed, recipe, refusal)
            refused += refusal is not None
            wrong += [f"{seed}.yml ({recipe['merge_method']}): {found}"] if found else []
    told = f"{count} recipes: {count - refused - len(wrong)} agree, {refused} are refused by mergekit"
    sys.stdout.write(f"{told}\n")
    assert wrong == []
    assert refused <= count // 3, f"mergekit refuses {refused} of {count}: {[each for each in said if each][:3]}"


def compare(seed: int, recipe: dict[str, Any], refusal: str | None) -> str | None:
    """Merges by one recipe and says how it differs from mergekit; None when it does not."""
    out = Path(f"{seed}-ours")
    try:
        eutectic.run(eutectic.plan(f"{seed}.yml", memory="1 GiB", threads=1), out=out)
    except eutectic.EutecticError as error:
        return None if refusal else f"refused: {error}"
    if refusal:
        return f"mergekit refuses: {refusal}"
    ours, want = (load_file(Path(f"{seed}-{whose}") / "model.safetensors") for whose in ("ours", "theirs"))
    if ours.keys() != want.keys():
        return f"names: {sorted(ours.keys() ^ want.keys())}"
    relative, absolute, share = tolerated(recipe)
    beyond, elements, worst = 0, 0, ("", 0.0)
    for name, expected in want.items():
        if recipe["merge_method"] in WIDE and "out_dtype" not in recipe:
            expected = expected.to(ours[name].dtype)
        if ours[name].dtype != expected.dtype or ours[name].shape != expected.shape:
            return f"{name}: {ours[name].dtype} {tuple(ours[name].shape)}, {expected.dtype} {tuple(expected.shape)}"
        error = (ours[name].double() - expected.double()).abs() / (absolute + relative * expected.double().abs())
        error = torch.nan_to_num(error, nan=torch.inf)
        beyond, elements = beyond + int((error > 1).sum()), elements + error.numel()
        worst = max(worst, (name, float(error.max())), key=lambda each: each[1])
    return None if beyond <= share * elements else f"{beyond} of {elements} differ, worst {worst[1]:.3g} in {worst[0]}"
