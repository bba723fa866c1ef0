"""The `peft_*` cases: adapters as PEFT folders in, what PEFT 0.21.2 made of them out.

Where PEFT is wrong, the right answer is tested: `*_rslora` cases have scale 1 instead of the root of the rank, and
`*_legacy_double_scaling` applies each adapter's scale once.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from eutectic.adapters.factors import Factors, compress
from eutectic.methods import get
from eutectic.methods.site import Site
from eutectic.numerics.draw import Key

from .cases import Case
from .merging import merge

PREFIX = "base_model.model."
Tensors = dict[str, torch.Tensor]


def knows(case: Case) -> bool:
    """Tells whether this is a run of PEFT's add_weighted_adapter."""
    path = case.folder / "params.json"
    return path.is_file() and json.loads(path.read_text()).get("method") == "peft_add_weighted_adapter"


def check(case: Case, tmp_path: Path) -> None:
    """Merges the adapters and holds updates, and where PEFT's are unique also factors, against PEFT's."""
    params = json.loads((case.folder / "params.json").read_text())
    given, want = (load_file(case.folder / f"{part}.safetensors") for part in ("inputs", "outputs"))
    kind = params["combination_type"]
    if kind.startswith("dare"):
        got = _with_masks(params, given)
    else:
        folders = [_folder(params, given, at, tmp_path) for at in range(len(params["adapters"]))]
        got = _read(merge(_recipe(params, folders), tmp_path / "out"))
    for name, expected in _updates(params, given, want).items():
        _close(got[name][1].double() @ got[name][0].double(), expected, params["tolerance"], name)
    if kind in ("linear", "ties", "magnitude_prune", "dare_linear", "dare_ties"):
        for name, (a, b) in got.items():
            for letter, found in (("A", a), ("B", b)):
                _close(found, want[f"merged/{PREFIX}{name}.lora_{letter}.weight"], params["tolerance"], name)


def _recipe(params: Mapping[str, Any], folders: list[Path]) -> dict[str, Any]:
    chosen: dict[str, Any] = {"type": params["combination_type"]}
    keys = {"density": "density", "majority_sign_method": "sign"}
    chosen |= {ours: params["kwargs"][theirs] for theirs, ours in keys.items() if theirs in params["kwargs"]}
    models = [{"model": str(f), "weight": w} for f, w in zip(folders, params["weights"], strict=True)]
    return {"models": models, "method": {"peft": chosen}, "output": {"form": "adapter"}}


def _folder(params: Mapping[str, Any], given: Tensors, at: int, tmp_path: Path) -> Path:
    """Writes one adapter of the case as PEFT would save it."""
    adapter, folder = params["adapters"][at], tmp_path / f"adapter{at}"
    folder.mkdir()
    weights = {key.partition("/")[2]: value for key, value in given.items() if key.startswith(f"adapter{at}/")}
    save_file(weights, folder / "adapter_model.safetensors")
    keys = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules")
    config = {"peft_type": "LORA"} | {key: adapter[key] for key in keys}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _read(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Returns A and B by module, of an output that scales by 1."""
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"]
    assert config["alpha_pattern"] == config["rank_pattern"]
    weights = load_file(folder / "adapter_model.safetensors")
    found = {}
    for key, a in weights.items():
        for end, other in ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B")):
            if key.endswith(end):
                found[key.removeprefix(PREFIX).removesuffix(end)] = (a, weights[key.removesuffix(end) + other])
    return found


@dataclass(frozen=True)
class Drawn(Key):
    """The masks that the reference drew, in place of draws of our own."""

    masks: tuple[tuple[str, torch.Tensor], ...] = ()

    def keep(self, density: tuple[float, ...], like: torch.Tensor) -> torch.Tensor:
        """Returns the stored mask of the tensors that this key is for."""
        module, _, what = self.name.rpartition(":")
        key = f"{module}.weight" if what == "delta" else f"{module}.lora_{what}.weight"
        return torch.stack([mask for name, mask in self.masks if name == key]).reshape(like.shape).bool()


def _with_masks(params: Mapping[str, Any], given: Tensors) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Calls the method itself, with the reference's masks, and cuts as a merge would."""
    masks = tuple(
        (key.partition("/")[2], value)
        for at in range(len(params["adapters"]))
        for key, value in given.items()
        if key.startswith(f"dare_mask{at}/")
    )
    found = {}
    values = _recipe(params, [Path()] * len(params["adapters"]))["method"]["peft"]
    for module in params["adapters"][0]["scaling_per_module"]:
        updates = _stored(params, given, module)
        site = Site(module, len(updates), Drawn(0, module, masks=masks), {}, updates=updates)
        made = get("peft").on_factors(site, weight=torch.tensor(params["weights"]).double(), **values)
        rank = max(adapter["r"] for adapter in params["adapters"])
        cut = made if isinstance(made, Factors) else compress(made, rank).factors
        found[module] = (cut.a, cut.b)
    return found


def _stored(params: Mapping[str, Any], given: Tensors, module: str) -> tuple[Factors, ...]:
    return tuple(
        Factors(
            given[f"adapter{at}/{PREFIX}{module}.lora_B.weight"],
            given[f"adapter{at}/{PREFIX}{module}.lora_A.weight"],
            adapter["scaling_per_module"][module],
        )
        for at, adapter in enumerate(params["adapters"])
    )


def _updates(params: Mapping[str, Any], given: Tensors, want: Tensors) -> Tensors:
    """Returns the update of every module: PEFT's, or the right one where PEFT 0.21.2 or before has a defect."""
    scales = params["merged_config"]["scaling_per_module"]
    found = {}
    for module, scale in scales.items():
        expected = want[f"delta/{module}.weight"].double()
        if "legacy_double_scaling" in str(params["note"]) or "snapshot" in str(params["note"]):
            parts = [f.b.double() @ f.a.double() * f.scale for f in _stored(params, given, module)]
            exact = sum(w * part for w, part in zip(params["weights"], parts, strict=True))
            assert isinstance(exact, torch.Tensor)
            u, s, vt = torch.linalg.svd(exact)
            rank = params["merged_config"]["r"]
            expected = (u[:, :rank] * s[:rank]) @ vt[:rank]
        if any("lora_embedding" in key and module in key for key in given):
            expected = expected.T
        found[module] = expected / scale
    return found


def _close(found: torch.Tensor, expected: torch.Tensor, tolerance: Mapping[str, float], name: str) -> None:
    assert found.shape == expected.shape, f"{name}: {tuple(found.shape)}, expected {tuple(expected.shape)}"
    error = (found.double() - expected.double()).abs()
    wrong = error > tolerance["atol"] + tolerance["rtol"] * expected.double().abs()
    assert not wrong.any(), f"{name}: {int(wrong.sum())} of {wrong.numel()} differ, worst by {float(error.max()):.3g}"
