"""Random methods: what must hold of one draw, and of thousands of draws together."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from .cases import Case, read_weights
from .merging import merge

COPIES, SEEDS = 500, 4
RESCALE = {
    "mergelm_dare_rescale": ("dare", "inverse"),
    "mergelm_dare_norescale": ("dare", "none"),
    "mergekit_dare_rescale": ("dare", "l1"),
    "mergekit_dare_norescale": ("dare", "none"),
    "official_della_rescale": ("della", "inverse"),
    "mergekit_della_rescale": ("della", "l1"),
    "mergekit_della_norescale": ("della", "none"),
}


def knows(case: Case) -> bool:
    """Tells whether these are statistics of a random method that we have."""
    return case.folder.name == "rand_stats" and case.output in RESCALE


def check(case: Case, tmp_path: Path) -> None:
    """Draws as often as asked and holds keep rates, ratios and the mean against theory."""
    facts, (method, rescale) = case.facts, RESCALE[str(case.output)]
    delta = load_file(case.folder / "delta.safetensors")["delta"].double()
    density, epsilon = facts["density"], facts["epsilon_half_window"] if method == "della" else 0.0
    chances = _chances(delta, density, epsilon)
    values = {"density": density, "rescale": rescale} | ({"epsilon": epsilon} if epsilon else {})
    out = _draw(delta, {method: values}, tmp_path)
    kept = out != 0
    _check_rates(kept, delta, chances)
    ratio = out / delta
    if rescale == "l1":
        l1 = out.abs().sum((1, 2)) / delta.abs().sum()
        assert torch.allclose(l1, torch.ones_like(l1), rtol=1e-5)
        factor = (delta.abs().sum() / (delta.abs() * kept).sum((1, 2)))[:, None, None]
    else:
        factor = 1 / chances if rescale == "inverse" else torch.ones_like(chances)
    assert torch.allclose(ratio[kept], (factor * kept)[kept], rtol=2e-6)
    error = float((out.mean(0) - delta).norm() / delta.norm())
    if rescale == "inverse" or (rescale == "l1" and not epsilon):
        noise = float((delta * ((1 - chances) / chances).sqrt()).norm() / delta.norm()) / math.sqrt(len(out))
        assert error < 1.3 * noise, f"the mean is off by {error:.3g}, sampling explains {noise:.3g}"
    else:  # biased, by as much as the reference is
        assert abs(error - facts["observed"][case.output]["mean_output_rel_err"]) < 0.01


def _chances(delta: torch.Tensor, density: float, epsilon: float) -> torch.Tensor:
    """The probability with which each element is kept: it rises with its rank in its row."""
    ranks = delta.abs().argsort(dim=1).argsort(dim=1).double()
    return (density - epsilon) + 2 * epsilon * ranks / (delta.shape[1] - 1)


def _draw(delta: torch.Tensor, step: dict[str, Any], tmp_path: Path) -> torch.Tensor:
    """Merges one expert of many equal tensors onto zeros: every tensor and seed is a draw, (draws, rows, columns)."""
    names = [f"copy.{i}" for i in range(COPIES)]
    save_file({name: delta.float().clone() for name in names}, tmp_path / "expert.safetensors")
    save_file({name: torch.zeros_like(delta.float()) for name in names}, tmp_path / "base.safetensors")
    found = []
    for seed in range(SEEDS):
        recipe: dict[str, Any] = {
            "base": str(tmp_path / "base.safetensors"),
            "models": [{"model": str(tmp_path / "expert.safetensors")}],
            "method": [step, "task_arithmetic"],
            "seed": seed,
        }
        merged = read_weights(merge(recipe, tmp_path / f"out{seed}"))
        found += [merged[name] for name in names]
    return torch.stack(found).double()


def _check_rates(kept: torch.Tensor, delta: torch.Tensor, chances: torch.Tensor) -> None:
    """Holds the overall share kept, and the share at each rank of a row, within four standard errors."""
    draws, rows, columns = kept.shape
    rate, expected = float(kept.double().mean()), float(chances.mean())
    noise = (chances * (1 - chances)).sqrt()
    assert abs(rate - expected) < 4 * float(noise.square().mean().sqrt()) / math.sqrt(rows * columns * draws)
    order = delta.abs().argsort(dim=1)
    found, wanted, room = (each.gather(1, order).mean(0) for each in (kept.double().mean(0), chances, noise))
    assert ((found - wanted).abs() < 4 * room / math.sqrt(rows * draws)).all(), found
    assert len({tuple(mask.flatten().tolist()) for mask in kept}) == draws, "two draws have the same mask"


def check_invariants(
    rules: Mapping[str, Any],
    base: Mapping[str, torch.Tensor],
    expert: Mapping[str, torch.Tensor],
    out: Mapping[str, torch.Tensor],
) -> None:
    """Holds one merge of one expert to what its case says of every valid draw."""
    total = dropped = 0
    for name, start in base.items():
        wanted = expert[name].double() - start.double()
        got = out[name].double() - start.double()
        kept = got != 0
        total, dropped = total + kept.numel(), dropped + int((~kept).sum())
        if not kept.any():
            continue
        size = wanted.abs().sum()
        factor = got.abs().sum() / (wanted.abs() * kept).sum()
        # `out` is one rounding of base + delta in float32: that is the error which the difference carries.
        rounding = 2.0**-23 * (start.double().abs() + got.abs())
        assert ((got - factor * wanted).abs() <= 1e-5 * got.abs() + rounding)[kept].all(), name
        assert (got.sign() == wanted.sign())[kept].all(), name
        if "l1" in rules:
            assert abs(float(got.abs().sum() / size) - rules["l1"]["factor"]) < 1e-4, name
        if "ratio" in rules:
            assert abs(float(factor) - rules["ratio"]["factor"]) < 1e-4, name
    density = rules["kept_fraction"]["expected"]
    share = 1 - dropped / total
    assert abs(share - density) < 5 * math.sqrt(density * (1 - density) / total), f"keeps {share}, asked {density}"
