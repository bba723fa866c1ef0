"""Numerics: relative error of the merged delta against double precision, bfloat16 in and out.

    python -m benchmarks.numerics --params 0.1

The exact merge is computed here, in float64, tensor by tensor, straight from the stored inputs. The error is
|out - exact| over |exact - base| in the Euclidean norm over the whole model; the floor is what rounding the exact
result once to bfloat16 costs, which no output in bfloat16 can beat. `not nearest` is the share of elements that are not
that rounding.
"""

import argparse
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor

from benchmarks import make_models, measure, recipes

METHODS = [
    "linear",
    "task_arithmetic",
    "slerp",
    "ties_tensor",
    "ties_model",
    "model_stock",
    "nuslerp",
    "multislerp",
    "karcher",
    "nearswap",
    "arcee_fusion",
]
#: The mean of the experts, as users take it; the error is counted from the base all the same.
EXPERTS_ALONE = {"karcher"}


def exact_linear(base: Tensor, models: Tensor) -> Tensor:
    """Averages the base and the models."""
    return torch.cat([base[None], models]).mean(0)


def exact_task_arithmetic(base: Tensor, models: Tensor) -> Tensor:
    """Adds 0.4 of every delta."""
    return base + 0.4 * (models - base).sum(0)


def exact_slerp(base: Tensor, models: Tensor) -> Tensor:
    """Goes half-way along the arc."""
    cosine = (base * models[0]).sum() / base.norm() / models[0].norm()
    if cosine.abs() > 0.9995:
        return (base + models[0]) / 2
    angle = math.acos(float(cosine))
    return (base + models[0]) * (math.sin(angle / 2) / math.sin(angle))


def exact_model_stock(base: Tensor, models: Tensor) -> Tensor:
    """Goes towards the mean by the ratio of the mean cosine."""
    deltas = (models - base).flatten(1)
    n, unit = len(deltas), deltas / deltas.norm(dim=1, keepdim=True)
    cosine = float((unit @ unit.T).sum() - n) / (n * (n - 1))
    return base + n * cosine / (1 + (n - 1) * cosine) * (models - base).mean(0)


def exact_nuslerp(base: Tensor, models: Tensor) -> Tensor:
    """Goes half-way along the arc between two deltas."""
    first, second = models - base
    angle = torch.acos((first * second).sum() / first.norm() / second.norm())
    return base + (first + second) * (torch.sin(angle / 2) / torch.sin(angle))


def exact_multislerp(base: Tensor, models: Tensor) -> Tensor:
    """Averages directions and lengths of the deltas apart."""
    deltas = (models - base).flatten(1)
    norms = deltas.norm(dim=1, keepdim=True)
    mean = (deltas / norms).mean(0)
    return base + (mean / mean.norm() * norms.mean()).view_as(base)


def exact_karcher(base: Tensor, models: Tensor) -> Tensor:
    """Steps along the mean logarithm over the models until it vanishes; the tensors themselves, not their Gram."""
    points = models.flatten(1)
    norms = points.norm(dim=1, keepdim=True)
    units = points / norms
    mean = units.mean(0)
    mean = mean / mean.norm()
    for _ in range(10):
        near = (units @ mean).clamp(-1, 1)
        angle = near.acos()
        step = ((angle / angle.sin())[:, None] * (units - near[:, None] * mean)).mean(0)
        size = step.norm()
        if size < 1e-5:
            break
        mean = size.cos() * mean + size.sin() * step / size
        mean = mean / mean.norm()
    return (mean * norms.mean()).view_as(base)


def exact_nearswap(base: Tensor, models: Tensor) -> Tensor:
    """Interpolates by min(1, t / |delta|)."""
    share = (0.001 / (models[0] - base).abs().clamp(min=1e-12)).clamp(0, 1)
    return share * models[0] + (1 - share) * base


def exact_arcee_fusion(base: Tensor, models: Tensor) -> Tensor:
    """Takes what stands out by |delta| times the divergence of its row; quartiles by sorting."""
    p, q = (torch.softmax(each, -1) + 1e-8 for each in (models[0], base))
    importance = (models[0] - base).abs() * (p * (p / q).log()).sum(-1, keepdim=True)
    order = importance.flatten().sort().values
    first, median, third = (order[int(share * (len(order) - 1))] for share in (0.25, 0.5, 0.75))
    return models[0].where(importance >= median + 1.5 * (third - first), base)


def exact_ties(base: Tensor, models: Tensor, cuts: Tensor) -> Tensor:
    """Trims, elects and averages; `cuts` is the least magnitude kept, one a model."""
    deltas = models - base
    kept = deltas * (deltas.abs() >= cuts.view(-1, *[1] * base.dim()))
    elected = kept.sum(0).sign()
    agree = (kept.sign() == elected) & (kept != 0)
    return base + (kept * agree).sum(0) / agree.sum(0).clamp(min=1)


def kept_from(deltas: Tensor, density: float = 0.2) -> Tensor:
    """Returns the authors' cut of each flattened delta: its (d - int(d * density))-th smallest magnitude."""
    d = deltas.shape[1]
    return deltas.abs().kthvalue(max(1, d - int(d * density)), dim=1).values


class Files:
    """A folder's tensors in float64, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._where: dict[str, Any] = {}  # safe_open is untyped
        for path in sorted(folder.glob("*.safetensors")):
            handle: Any = safe_open(path, "pt")
            self._where |= dict.fromkeys(handle.keys(), handle)

    @property
    def names(self) -> list[str]:
        """Every tensor."""
        return list(self._where)

    def read(self, name: str) -> Tensor:
        """Reads a tensor in double precision."""
        return cast(Tensor, self._where[name].get_tensor(name)).double()


def exact_merge(name: str, files: list[Files]) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the double-precision merge of one tensor: (*shape), (n, *shape) -> (*shape)."""
    if name == "ties_tensor":
        return lambda base, models: exact_ties(base, models, kept_from((models - base).flatten(1)))
    if name == "ties_model":
        base, *experts = files
        deltas = [torch.cat([(e.read(n) - base.read(n)).float().flatten() for n in base.names]) for e in experts]
        cuts = torch.cat([kept_from(delta[None]) for delta in deltas]).double()
        return lambda base, models: exact_ties(base, models, cuts)
    plain = {
        "nuslerp": exact_nuslerp,
        "multislerp": exact_multislerp,
        "karcher": exact_karcher,
        "nearswap": exact_nearswap,
        "arcee_fusion": exact_arcee_fusion,
        "linear": exact_linear,
        "task_arithmetic": exact_task_arithmetic,
        "slerp": exact_slerp,
        "model_stock": exact_model_stock,
    }
    return plain[name]


def measure_method(name: str, options: argparse.Namespace, work: Path) -> dict[str, float]:
    """Merges with eutectic and compares with the exact merge."""
    base, experts = make_models.model_folders(options.params, options.experts, options.out, options.threads)
    inputs = recipes.inputs_of(name, base, experts)
    recipe = recipes.recipe(name, base, experts)
    if name in EXPERTS_ALONE:
        recipe["models"] = [str(path) for path in experts]
    measure.merge(recipe, work, memory=options.memory, threads=options.threads, keep=True)
    files, merged = [Files(folder) for folder in inputs], Files(work / "merged")
    exactly = exact_merge(name, files)
    error = floor = size = wrong = total = 0.0
    for tensor in files[0].names:
        start, *models = (source.read(tensor) for source in files)
        exact, got = exactly(start, torch.stack(models)), merged.read(tensor)
        nearest = exact.bfloat16().double()
        error += float((got - exact).square().sum())
        floor += float((nearest - exact).square().sum())
        size += float((exact - start).square().sum())
        wrong, total = wrong + float((got != nearest).sum()), total + got.numel()
    shutil.rmtree(work / "merged")
    return {"error": (error / size) ** 0.5, "floor": (floor / size) ** 0.5, "not nearest": wrong / total}


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    make_models.add_arguments(parser, params="0.1")
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--memory", default="1GiB")
    measure.add_report(parser)
    options = parser.parse_args()
    with measure.work_folder(options.out, "numerics") as work:
        found = measure.each(options.methods, lambda name: measure_method(name, options, work))
    rows: list[list[Any]] = [
        [name, f"{100 * entry['error']:.3f} %", f"{100 * entry['floor']:.3f} %", f"{entry['not nearest']:.1e}"]
        for name, entry in found.items()
    ]
    measure.report(options, ["method", "error", "floor", "not nearest"], rows, found)


if __name__ == "__main__":
    main()
