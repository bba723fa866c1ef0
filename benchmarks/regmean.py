"""RegMean against fusion_bench's, end to end, and what another alpha costs once statistics are stored.

    python -m venv /tmp/fusion && /tmp/fusion/bin/pip install fusion_bench==0.2.33
    python -m benchmarks.regmean --port /tmp/fusion/bin/python --samples 256 --length 64

Experts of BERT-base's shape (12 blocks of width 768), random weights and tokens, float32. Both run in fresh processes
on as many threads, from models on disk to a merged model on disk; `of the process` is all of it, start-up included.
The error is the relative difference of the two merged models' linear maps.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks import measure
from benchmarks.calibration import write_data
from benchmarks.make_models import DEFAULT_OUT


def write_models(folder: Path, experts: int, blocks: int) -> list[Path]:
    """Writes experts: one model of random weights, and differences of a tenth of its spread."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(num_hidden_layers=blocks, architectures=["BertModel"])
    model = BertModel(config, add_pooling_layer=False)
    paths = []
    for at in range(experts):
        paths.append(folder / f"expert{at}")
        if at:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 2e-3 * torch.randn_like(parameter)
        model.save_pretrained(paths[-1])
    return paths


def ours(models: list[Path], data: Path, alpha: float, work: Path, options: argparse.Namespace) -> dict[str, float]:
    """Merges with eutectic, from what the store holds."""
    recipe = {
        "models": [{"model": str(path), "name": path.name} for path in models],
        "method": {"regmean": {"alpha": alpha}},
        "calibration": {"data": str(data), "samples": options.samples, "batch": options.batch},
    }
    file, out = work / "recipe.json", work / "ours"
    file.write_text(json.dumps(recipe))
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.child", file, out, "--memory", "4GiB", "--store", work / "store"]
    cost = measure.run([*command, "--threads", options.threads])
    said = json.loads(cost.output.strip().splitlines()[-1])
    return {"seconds": said["call"], "cpu": said["cpu"], "wall": cost.wall, "all": cost.cpu, "peak": cost.resident}


def theirs(models: list[Path], data: Path, work: Path, options: argparse.Namespace) -> dict[str, float]:
    """Merges with fusion_bench."""
    out = work / "theirs"
    shutil.rmtree(out, ignore_errors=True)
    script = Path(__file__).with_name("authors_regmean.py")
    command = [options.port, script, data, *models, "--out", out, "--batch", options.batch]
    cost = measure.run([*command, "--threads", options.threads])
    said = json.loads(next(line for line in reversed(cost.output.splitlines()) if line.startswith("{")))
    return {**said, "wall": cost.wall, "all": cost.cpu, "peak": cost.resident}


def difference(one: Path, other: Path) -> float:
    """Returns the relative difference of two models' linear maps."""
    a, b = (load_file(next(path.glob("*.safetensors"))) for path in (one, other))
    maps = [name for name in a if a[name].dim() == 2 and "embeddings" not in name]
    off = sum(float((a[name].double() - b[name].double()).square().sum()) for name in maps)
    return float(np.sqrt(off / sum(float(b[name].double().square().sum()) for name in maps)))


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=Path, required=True, help="an interpreter with fusion_bench 0.2.33")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    measure.add_report(parser)
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"eutectic": [], "fusion_bench": [], "eutectic, another alpha": []}
    with measure.work_folder(options.out, "regmean") as work:
        models = write_models(work, options.experts, options.blocks)
        data = write_data(work / "tokens.npz", options.samples, options.length, 30522)
        for _ in range(options.rounds):
            shutil.rmtree(work / "store", ignore_errors=True)
            found["eutectic"].append(ours(models, data, 0.9, work, options))
            found["fusion_bench"].append(theirs(models, data, work, options))
            off = difference(work / "ours", work / "theirs")
            found["eutectic, another alpha"].append(ours(models, data, 0.5, work, options))
    rows = [[name, *_columns(turns)] for name, turns in found.items()]
    report: dict[str, Any] = {**found, "difference": off}
    measure.report(
        options, ["", "seconds", "CPU s", "s of the process", "CPU s of the process", "peak, MiB"], rows, report
    )
    print(f"\nrelative difference of the merged maps: {off:.2g}")


def _columns(turns: list[dict[str, float]]) -> list[str]:
    spreads = [measure.spread((turn[key] for turn in turns), 1) for key in ("seconds", "cpu", "wall", "all")]
    return [*spreads, f"{statistics.median(turn['peak'] for turn in turns) / 2**20:.0f}"]


if __name__ == "__main__":
    main()
