"""Real recipes over tiny models of the shapes they speak of, merged by mergekit and by us.

    EUTECTIC_MERGEKIT=... EUTECTIC_MERGEKIT_EXAMPLES=FOLDER pytest tests/mergekit/test_recipes.py -s

Without the folder the recipes beside the tests of the dialect are taken. Random draws cannot be compared, so recipes
of random methods are compared with everything kept (density 1).
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

import eutectic

from . import theirs
from .drawn import RANDOM
from .test_drawn import WIDE, tolerated
from .tiny import write_model

OWN = Path(__file__).parent.parent / "recipe" / "mergekit" / "examples"
WORDS = ["<unk>", *(f"w{number}" for number in range(19))]
TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
#: Why a recipe is not run: what it needs is no tiny Llama.
SKIPPED = {"adapters": "adapters", "modules": "a model of several modules"}


def documents(path: Path) -> list[dict[str, Any]]:
    """Reads a file as plain data."""
    return [each for each in YAML(typ="safe").load_all(path.read_text()) if each]


def entries(data: Any) -> Iterator[dict[str, Any]]:
    """Yields every mapping that names a model."""
    if isinstance(data, dict):
        if "model" in data:
            yield data
        for value in data.values():
            yield from entries(value)
    elif isinstance(data, list):
        for value in data:
            yield from entries(value)


def prepare(path: Path, folder: Path) -> Path:
    """Writes the models that a recipe names, and the recipe, with random methods made sure of."""
    found = documents(path)
    names: dict[str, int] = {}
    stages = {document.get("name") for document in found}
    for document in found:
        for entry in [*entries(document), {"model": document.get("base_model")}]:
            name, layers = str(entry["model"]).partition("@")[0], entry.get("layer_range", [0, 4])[1]
            if entry["model"] and name not in stages:
                entry["model"] = name  # a folder has no revision
                names[name] = max(names.get(name, 4), layers)
    layers = max(names.values())
    tokens = any("tokenizer" in key for document in found for key in document)
    special = [token for document in found for token in (document.get("tokenizer") or {}).get("tokens", ())]
    dtype = TYPES.get(str(found[-1].get("dtype", "")).removeprefix("torch."), torch.float32)
    for number, name in enumerate(sorted(names)):
        own = [f"only{number}", "both"] if number % 2 else ["both", f"mine{number}"]
        words = [*WORDS, *special, "</s>", *own]
        write_model(folder / name, number, layers=layers, dtype=dtype, words=words if tokens else None, spread=0.01)
    for document in found:
        if document["merge_method"] in RANDOM:
            for entry in entries(document):
                if "density" in (entry.get("parameters") or {}):
                    entry["parameters"] = {**entry["parameters"], "density": 1.0}
    written = folder / path.name
    with written.open("w") as file:
        YAML(typ="safe").dump_all(found, file)
    return written


@pytest.mark.slow
def test_real_recipes_agree(tmp_path: Path) -> None:
    """Those that mergekit runs come out alike: names, types and values; the list says why others do not."""
    if theirs.interpreter() is None:
        pytest.skip(f"mergekit is not installed; name its mergekit-yaml by {theirs.VARIABLE}")
    place = Path(os.environ.get("EUTECTIC_MERGEKIT_EXAMPLES", OWN))
    paths = sorted(path for path in place.rglob("*") if path.suffix in {".yml", ".yaml"})
    assert paths
    jobs, told = [], {}
    for path in paths:
        if path.stem in SKIPPED:
            told[path.name] = f"not run: {SKIPPED[path.stem]}"
            continue
        folder = tmp_path / path.stem
        written = prepare(path, folder)
        several = len(documents(path)) > 1
        jobs.append(theirs.job(written, folder / "out-theirs", folder=folder, several=several))
    said = theirs.run(jobs, tmp_path)
    for job, refusal in zip(jobs, said, strict=True):
        told[Path(job["recipe"]).name] = judge(Path(job["folder"]), Path(job["recipe"]), refusal)
    sys.stdout.write("\n" + "\n".join(f"{name:32} {found}" for name, found in sorted(told.items())) + "\n")
    assert [name for name, found in told.items() if found.startswith("differs")] == []


def judge(folder: Path, recipe: Path, refusal: str | None) -> str:
    """Merges one recipe and says how it compares."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        try:
            eutectic.run(eutectic.plan(str(recipe), memory="1 GiB"), out="out-ours")
        except eutectic.EutecticError as error:
            return f"both refuse: {refusal}" if refusal else f"differs: refused by us: {error}"
    if refusal:
        return f"merged by us alone; mergekit: {refusal.splitlines()[0][:150]}"
    ours, want = (load_file(folder / f"out-{whose}" / "model.safetensors") for whose in ("ours", "theirs"))
    last = documents(recipe)[-1]
    if ours.keys() != want.keys():
        return f"differs: names {sorted(ours.keys() ^ want.keys())[:3]}"
    relative, absolute, share = tolerated({**last, "dtype": str(last.get("dtype", "float32")).removeprefix("torch.")})
    beyond, elements = 0, 0
    for name, expected in want.items():
        if ours[name].shape != expected.shape:
            return f"differs: {name} {tuple(ours[name].shape)}, {tuple(expected.shape)}"
        if last["merge_method"] not in WIDE and ours[name].dtype != expected.dtype:
            return f"differs: {name} {ours[name].dtype}, {expected.dtype}"
        error = (ours[name].double() - expected.double()).abs()
        beyond += int((error > absolute + relative * expected.double().abs()).sum())
        elements += error.numel()
    if beyond > share * elements:
        return f"differs: {beyond} of {elements}"
    return "agrees" + (f"; {beyond} of {elements} elements lie on a border" if beyond else "")
