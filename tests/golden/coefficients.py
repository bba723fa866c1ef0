"""NAN's coefficients, and merges with them, against two independent readings of the formula."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from eutectic.stats.coefficients import InverseNorms

from .cases import Case, read_weights
from .merging import merge

#: How a case calls what we call otherwise.
OF, PER = {"finetuned": "finetuned", "task_vector": "delta"}, {"global": "model", "tensor": "tensor"}


def knows(case: Case) -> bool:
    """Tells whether this is a case of coefficients."""
    path = case.folder / "params.json"
    return path.is_file() and json.loads(path.read_text()).get("method") == "nan"


def check(case: Case, tmp_path: Path) -> None:
    """Holds coefficients, and merges with them, to the case's."""
    params = json.loads((case.folder / "params.json").read_text())
    given, want = (load_file(case.folder / f"{part}.safetensors") for part in ("inputs", "outputs"))
    tolerance = params["tolerance"]
    for name in ("base", *(f"model{i}" for i in range(params["n_models"]))):
        own = {key.partition("/")[2]: value for key, value in given.items() if key.startswith(f"{name}/")}
        save_file(own, tmp_path / f"{name}.safetensors")
    seen = set()
    for of, per in product(OF, PER):
        if per == "global":
            energy = want[f"norms/{of}/{per}"].numpy() ** 2
            for scale, key in ((1.0, "coef"), ("n/2", "coef_times_m_half")):
                found = InverseNorms(OF[of], PER[per], scale).solve(energy, params["n_models"])  # type: ignore[arg-type]
                assert np.allclose(found, want[f"{key}/{of}/{per}"].numpy(), tolerance["rtol"], tolerance["atol"])
        for kind in ("merged_ta", "merged_average"):
            expected = {
                key.split("/", 3)[3]: value for key, value in want.items() if key.startswith(f"{kind}/{of}/{per}/")
            }
            if not expected:
                continue
            seen.add((kind, of, per))
            out = merge(_recipe(params["n_models"], kind, of, per, tmp_path), tmp_path / f"{kind}-{of}-{per}")
            got = read_weights(out)
            assert got.keys() == expected.keys()
            for name, value in expected.items():
                assert torch.allclose(got[name], value, tolerance["rtol"], tolerance["atol"]), (
                    f"{kind} {of} {per} {name}"
                )
    assert len(seen) == 6


def _recipe(n: int, kind: str, of: str, per: str, folder: Path) -> dict[str, Any]:
    models = [str(folder / f"model{i}.safetensors") for i in range(n)]
    source = {"of": OF[of], "per": PER[per]}
    if kind == "merged_ta":
        method: dict[str, Any] = {"task_arithmetic": {"weight": {"nan": source}}}
    else:
        method = {"linear": {"weight": {"nan": {**source, "scale": 1}}, "normalize": False}}
    return {"base": str(folder / "base.safetensors"), "models": models, "method": method}
