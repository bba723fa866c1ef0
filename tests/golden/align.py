"""The `align` family's cases on vocabularies: tokens joined, rows transplanted, embedding spaces mapped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from eutectic.numerics.transplant import linear_map

from .cases import Case, read_weights
from .merging import merge

EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
INNER = "model.layers.0.self_attn.q_proj.weight"
#: Of each run of tokensurgeon: our fill, and whether tokens may take the row of their beginning.
FILLS: dict[str, tuple[Any, bool]] = {
    "omp": ({"omp": {"k": 4}}, False),
    "omp_pm_yes": ({"omp": {"k": 4}}, True),
    "ci_dist": ({"interpolate": {"k": 5}}, False),
    "ci_cos": ({"interpolate": {"k": 5, "distance": "cosine"}}, False),
    "ci_bary": ({"interpolate": {"k": 5, "weights": "barycentric"}}, False),
    "ci_lsq": ({"interpolate": {"k": 5, "weights": "least_squares"}}, False),
    "pca_correct_rotation": ({"project": {"map": "landmark"}}, False),
    "sub_mean": ("subword", False),
    "sub_sum": ({"subword": {"pieces": "sum"}}, False),
    "sub_fl": ({"subword": {"pieces": "ends"}}, False),
    "zero": ("zero", False),
    "mean": ("mean", False),
}
MAPS = {"affine": "affine", "ls": "least_squares", "ls_8to5": "least_squares", "ridge0.1": "ridge"}
MAPS |= {"procrustes": "procrustes", "procrustes_8to5": "procrustes", "procrustes_centered_scaled": "scaled"}


def knows(case: Case) -> bool:
    """Tells whether this is a case on vocabularies that we have."""
    known = {"20_tokenizer_union": None, "21_tokensurgeon": FILLS, "22_embedding_projection": MAPS}
    name = case.folder.name
    return case.output is not None and name in known and (known[name] is None or case.output in (known[name] or ()))


def check(case: Case, tmp_path: Path) -> None:
    """Runs one result of a case."""
    runners: dict[str, Callable[[Case, Path], None]] = {"20": _union, "21": _transplant, "22": _project}
    runners[case.folder.name[:2]](case, tmp_path)


def _expected(case: Case) -> dict[str, torch.Tensor]:
    prefix = f"{case.output}/"
    tensors = load_file(case.folder / "expected.safetensors")
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _union(case: Case, tmp_path: Path) -> None:
    """Six mergekit runs; rows are compared by token, since its ids change from run to run."""
    facts, want = case.facts["cases"][str(case.output)], _expected(case)
    out = merge(_union_recipe(case.folder, facts), tmp_path / "out")
    got, tolerance = read_weights(out), case.facts["tolerance"]
    ids = AutoTokenizer.from_pretrained(out).get_vocab()
    assert sorted(ids) == sorted(facts["tokens_sorted"])
    order = [ids[token] for token in facts["tokens_sorted"]]
    for name in EMBEDDINGS:
        assert len(got[name]) == facts["vocab_rows"]
        assert float((got[name][order] - want[name]).abs().max()) <= tolerance
        if "pad" in facts:
            padding = got[name][len(order) :]
            assert float((padding - want[f"{name}/pad_row"]).abs().max()) <= tolerance
    assert float((got[INNER] - want[f"other/{INNER}"]).abs().max()) <= tolerance
    assert json.loads((out / "config.json").read_text())["vocab_size"] == facts["config_vocab_size"]


def _union_recipe(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    vocabulary: dict[str, Any] = {"tokenizer": facts.get("src") or "union"}
    if "pad" in facts:
        vocabulary["pad_to_multiple_of"] = facts["pad"]
    for token, (kind, model, what, force) in facts.get("tokens", {}).items():
        key = {"tok": "token", "id": "id"}.get(kind)
        source: dict[str, Any] = {"zero": True} if kind == "zero" else {"model": str(folder / model)}
        vocabulary.setdefault("tokens", {})[token] = source | ({key: what} if key else {}) | {"force": force}
    models = [{"model": str(folder / model), "weight": weight} for model, weight in facts["w"].items()]
    recipe = {"models": models, "method": facts["method"], "vocabulary": vocabulary}
    return recipe | ({"base": str(folder / facts["base"])} if facts["base"] else {})


def _transplant(case: Case, tmp_path: Path) -> None:
    """Model A with the tokenizer of donor D, whose rows guide the fill; rows by the donor's ids."""
    fill, prefixes = FILLS[str(case.output)]
    vocabulary = {"donor": str(case.folder / "D"), "match": "normalised", "fill": fill, "prefixes": prefixes}
    recipe = {"models": [str(case.folder / "A")], "method": "linear", "vocabulary": vocabulary}
    got = read_weights(merge(recipe, tmp_path / "out"))
    for name, want in _expected(case).items():
        assert got[name].shape == want.shape
        assert float((got[name] - want).abs().max()) <= case.facts["tolerance"], name


def _project(case: Case, _: Path) -> None:
    """Maps between embedding spaces, taught by shared tokens."""
    given, want = load_file(case.folder / "inputs.safetensors"), _expected(case)
    there = given["A"].double()
    here = given["B5" if str(case.output).endswith("8to5") else "B"].double()
    pairs = given["shared"]
    matrix, origin, own = linear_map(there[pairs[:, 0]], here[pairs[:, 1]], MAPS[str(case.output)], 0.1)
    scale = float(want["scale"]) if "scale" in want else 1.0
    expected = want["W"] if "W" in want else want["R"] * scale
    assert float((matrix - expected).abs().max()) <= case.facts["tolerance"]
    if "mapped" in want:
        assert float(((there - origin) @ matrix + own - want["mapped"]).abs().max()) <= case.facts["tolerance"]
