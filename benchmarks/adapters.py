"""Merging adapters against PEFT and against the dense route, and how it grows with their number.

    python -m benchmarks.adapters --out /tmp/adapters            both tables
    python -m benchmarks.adapters --out /tmp/adapters --many 0   without the growth

Adapters are synthetic (normal factors, seeded) on attention layers of Llama-7B's shape, 4096 x 4096, rank 16, alpha 32,
float32. Each route runs in a fresh process on one thread. CPU seconds are those of the merge itself: for PEFT the call
of `add_weighted_adapter` alone, its loading not counted; for eutectic planning, reading, merging, writing the folder.
The error is that of the update B A against the sum of the stored updates in float64.
"""

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import add_report, report, run, spread

HIDDEN, RANK, ALPHA = 4096, 16, 32
MODULES = ("q_proj", "v_proj")
PREFIX = "base_model.model.model.layers.0.self_attn"


def weights(n: int) -> list[float]:
    """Returns weights that differ and are not all positive."""
    return [(1.0, -0.5, 0.75, 0.25)[at % 4] for at in range(n)]


def make_adapters(n: int, folder: Path, hidden: int = HIDDEN, rank: int = RANK) -> list[Path]:
    """Writes n adapters as PEFT folders, those that are there kept, and returns them."""
    import torch
    from safetensors.torch import save_file

    found = []
    for at in range(n):
        place = folder / f"adapter{at:04d}"
        found.append(place)
        if (place / "adapter_config.json").exists():
            continue
        place.mkdir(parents=True, exist_ok=True)
        source = torch.Generator().manual_seed(at)
        tensors = {}
        for module in MODULES:
            tensors[f"{PREFIX}.{module}.lora_A.weight"] = torch.randn(rank, hidden, generator=source) / hidden**0.5
            tensors[f"{PREFIX}.{module}.lora_B.weight"] = torch.randn(hidden, rank, generator=source) / 100
        save_file(tensors, place / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": ALPHA, "target_modules": list(MODULES)}
        (place / "adapter_config.json").write_text(json.dumps(config))
    return found


def factors(folder: Path, module: str) -> tuple[Any, Any]:
    """Returns B and A of a stored adapter, float64, its scale in B."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    b, a = (tensors[f"{PREFIX}.{module}.lora_{letter}.weight"].double() for letter in "BA")
    return b * scale, a


def error_of(merged: Path, adapters: Sequence[Path]) -> float:
    """Returns the largest relative error of a merged adapter's updates, from the factors alone (float64)."""
    import torch

    worst = 0.0
    for module in MODULES:
        parts = [factors(each, module) for each in adapters]
        left = torch.cat([b * w for (b, _), w in zip(parts, weights(len(parts)), strict=True)], 1)
        right = torch.cat([a for _, a in parts], 0)
        own_b, own_a = factors(merged, module)
        # || own - true || of a difference of factors: QR first, so that small differences are not lost in squares.
        both_b, both_a = torch.cat([own_b, -left], 1), torch.cat([own_a, right], 0)
        norms = []
        for b, a in ((both_b, both_a), (left, right)):
            rb, ra = torch.linalg.qr(b)[1], torch.linalg.qr(a.T)[1]
            norms.append(float(torch.linalg.matrix_norm(rb @ ra.T)))
        worst = max(worst, norms[0] / norms[1])
    return worst


# ---- one route, in a process of its own -----------------------------------------------------------------------------


def ours(adapters: Sequence[Path], out: Path, rank: int | None, memory: str) -> dict[str, Any]:
    """Merges with eutectic."""
    import eutectic

    eutectic.merge_adapters, eutectic.plan, eutectic.run  # noqa: B018  loaded: start-up is not merging
    started, wall = time.process_time(), time.perf_counter()
    recipe = eutectic.merge_adapters(adapters, weights=weights(len(adapters)), rank=rank, dtype="float32")
    receipt = eutectic.run(eutectic.plan(recipe, memory=memory, threads=1), out)
    found = {"cpu": time.process_time() - started, "wall": time.perf_counter() - wall}
    return found | {"stated": receipt.truncation["relative_error"], "planned": receipt.memory["planned"]}


def peft(adapters: Sequence[Path], out: Path, kind: str, rank: int) -> dict[str, Any]:
    """Merges with PEFT: `add_weighted_adapter` on a model of the modules alone."""
    import torch
    from peft import PeftModel
    from torch import nn

    torch.set_num_threads(1)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for module in MODULES:
                setattr(self, module, nn.Linear(HIDDEN, HIDDEN, bias=False))

    base = nn.Module()
    base.model = nn.Module()
    base.model.layers = nn.ModuleList([nn.Module()])
    base.model.layers[0].self_attn = Attention()
    model = PeftModel.from_pretrained(base, adapters[0], adapter_name="a0")
    for at, folder in enumerate(adapters[1:], start=1):
        model.load_adapter(folder, f"a{at}")
    started, wall = time.process_time(), time.perf_counter()
    names = [f"a{at}" for at in range(len(adapters))]
    more = {"svd_rank": rank} if kind == "svd" else {}
    model.base_model.add_weighted_adapter(names, weights(len(names)), "merged", combination_type=kind, **more)
    found = {"cpu": time.process_time() - started, "wall": time.perf_counter() - wall}
    model.save_pretrained(out, selected_adapters=["merged"])
    for file in (out / "merged").iterdir():
        shutil.move(file, out / file.name)
    return found


def dense(adapters: Sequence[Path], out: Path, rank: int) -> dict[str, Any]:
    """Merges by the dense sum of the updates and its singular value decomposition, in float32."""
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    started, wall = time.process_time(), time.perf_counter()
    tensors = {}
    for module in MODULES:
        total = torch.zeros(HIDDEN, HIDDEN)
        for folder, weight in zip(adapters, weights(len(adapters)), strict=True):
            b, a = factors(folder, module)
            total.addmm_(b.float(), a.float(), alpha=weight)
        u, s, vt = torch.linalg.svd(total, full_matrices=False)
        tensors[f"{PREFIX}.{module}.lora_B.weight"] = (u[:, :rank] * s[:rank]).contiguous()
        tensors[f"{PREFIX}.{module}.lora_A.weight"] = vt[:rank].contiguous()
    out.mkdir(parents=True)
    save_file(tensors, out / "adapter_model.safetensors")
    (out / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": rank}))
    return {"cpu": time.process_time() - started, "wall": time.perf_counter() - wall}


def child(options: argparse.Namespace) -> None:
    """Runs one route and prints what it took as a line of JSON."""
    adapters = make_adapters(options.adapters, options.out)
    target = options.out / f"merged-{options.route}"
    shutil.rmtree(target, ignore_errors=True)
    rank = options.rank
    if options.route.startswith("eutectic"):
        found = ours(adapters, target, None if options.route.endswith("exact") else rank, options.memory)
    elif options.route == "dense":
        found = dense(adapters, target, rank)
    else:
        found = peft(adapters, target, options.route.removeprefix("peft-"), rank)
    print(json.dumps(found))


# ---- the tables ------------------------------------------------------------------------------------------------------


def measured(options: argparse.Namespace, route: str, n: int) -> dict[str, Any]:
    """Runs a route in a fresh process and adds its memory."""
    print(f"{route}, {n} adapters ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "benchmarks.adapters", "--out", options.out, "--route", route]
    cost = run([*command, "--adapters", n, "--rank", options.rank, "--memory", options.memory])
    found: dict[str, Any] = json.loads(cost.output.strip().splitlines()[-1])
    return found | {"resident": cost.resident, "anonymous": cost.anonymous, "process cpu": cost.cpu}


def against(options: argparse.Namespace) -> tuple[list[list[str]], dict[str, Any]]:
    """Measures every route on the same adapters."""
    adapters = make_adapters(options.adapters, options.out)
    rows, figures = [], {}
    for route in ("eutectic-svd", "eutectic-exact", "peft-svd", "peft-cat", "dense"):
        runs = [measured(options, route, len(adapters)) for _ in range(options.repeat if "eutectic" in route else 1)]
        error = error_of(options.out / f"merged-{route}", adapters)
        figures[route] = {"runs": runs, "error": error}
        rows.append(
            [
                route,
                spread((each["cpu"] for each in runs), 3),
                f"{max(each['anonymous'] for each in runs) / 2**20:.0f} MiB",
                f"{error:.3g}",
            ]
        )
    ours_cpu = min(each["cpu"] for each in figures["eutectic-svd"]["runs"])
    for route in ("peft-svd", "dense"):
        figures[route]["times"] = figures[route]["runs"][0]["cpu"] / ours_cpu
    return rows, figures


def growth(options: argparse.Namespace) -> tuple[list[list[str]], dict[str, Any]]:
    """Measures more and more adapters."""
    rows, figures = [], {}
    counts = [max(1, options.many // part) for part in (8, 4, 2, 1)]
    make_adapters(options.many, options.out)
    for n in counts:
        found = measured(options, "eutectic-svd", n)
        figures[str(n)] = found
        each = found["cpu"] / n * 1000
        rows.append([str(n), f"{found['cpu']:.1f}", f"{each:.1f} ms", f"{found['anonymous'] / 2**20:.0f} MiB"])
    slope = math.log(figures[str(counts[-1])]["cpu"] / figures[str(counts[0])]["cpu"], counts[-1] / counts[0])
    figures["exponent"] = slope
    return rows, figures


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where adapters and outputs go")
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rank", type=int, default=RANK, help="of the merged adapter")
    parser.add_argument("--many", type=int, default=1000, help="most adapters of the growth table; 0 leaves it out")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--route", help=argparse.SUPPRESS)
    add_report(parser)
    options = parser.parse_args()
    if options.route:
        child(options)
        return
    rows, figures = against(options)
    report(options, ["route", "CPU seconds", "memory", "error"], rows, figures)
    for route in ("peft-svd", "dense"):
        print(f"{route} takes {figures[route]['times']:.0f} times the CPU seconds of eutectic-svd")
    if options.many:
        rows, more = growth(options)
        print("\n| adapters | CPU seconds | each | memory |\n|---|---|---|---|")
        for row in rows:
            print("| " + " | ".join(row) + " |")
        print(f"time grows as the number of adapters to the power {more['exponent']:.2f}")


if __name__ == "__main__":
    main()
