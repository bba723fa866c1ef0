"""Peak memory of calibration and of merging on data within the plan, and what stored statistics save afterwards.

    python -m benchmarks.calibration --params 1.1 --method regmean --samples 16 --length 64 --memory 6GiB

The models are those of `make_models`, their data random tokens. Every stage is a fresh process: calibrating and merging
from nothing, then merging with another number (RegMean's alpha, LOT's and CAT's scale) from what is stored. Memory is
resident memory that is no file's pages, less what a process that only imports and plans takes.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import make_models, measure

MIB = 2**20
#: What is measured, each in a fresh process, by the number it merges with.
STAGES = {"calibrate and merge": 0.9, "merge with another number": 0.5}
#: The chains, by method, given that number.
CHAINS: dict[str, Callable[[float], Any]] = {
    "regmean": lambda number: {"regmean": {"alpha": number}},
    "lot": lambda number: {"lot": {"scale": number}},
    "cat": lambda number: ["cat", {"task_arithmetic": {"scale": number}}],
}


def recipe(base: Path, experts: list[Path], data: Path, number: float, options: argparse.Namespace) -> dict[str, Any]:
    """Returns a recipe over random tokens."""
    return {
        "base": str(base),
        "models": [{"model": str(path), "name": path.name} for path in experts],
        "method": CHAINS[options.method](number),
        "calibration": {"data": str(data), "samples": options.samples, "batch": options.batch},
    }


def write_data(path: Path, samples: int, length: int, vocabulary: int) -> Path:
    """Writes random tokens as ready inputs."""
    drawn = np.random.default_rng(0).integers(0, vocabulary, (samples, length))
    np.savez(path, input_ids=drawn)
    return path


def stage(
    said: dict[str, Any], work: Path, store: Path, options: argparse.Namespace, *, plan_only: bool = False
) -> Any:
    """Runs one merge in a fresh process; returns what it said and what it cost."""
    file, out = work / "recipe.json", work / "merged"
    shutil.rmtree(out, ignore_errors=True)
    file.write_text(json.dumps(said))
    command = [
        sys.executable,
        "-m",
        "benchmarks.child",
        file,
        out,
        "--load",
        "transformers",
        "--memory",
        options.memory,
    ]
    command += ["--threads", options.threads, "--store", store]
    cost = measure.run([*command, "--plan-only"] if plan_only else command)
    shutil.rmtree(out, ignore_errors=True)
    return json.loads(cost.output.strip().splitlines()[-1]), cost


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    make_models.add_arguments(parser, "1.1")
    parser.add_argument("--method", choices=CHAINS, default="regmean")
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--memory", default="6GiB")
    parser.add_argument("--once", action="store_true", help="leave out the merge with another number")
    measure.add_report(parser)
    options = parser.parse_args()
    base, experts = make_models.model_folders(options.params, options.experts, options.out, options.threads)
    shape = make_models.SHAPES[options.params]
    rows, found = [], {}
    with measure.work_folder(options.out, "calibration") as work:
        data = write_data(work / "tokens.npz", options.samples, options.length, shape.vocab)
        store = work / "store"
        _, idle = stage(recipe(base, experts, data, 0.9, options), work, store, options, plan_only=True)
        for name, number in list(STAGES.items())[: 1 if options.once else None]:
            said, cost = stage(recipe(base, experts, data, number, options), work, store, options)
            added = cost.anonymous - idle.anonymous
            found[name] = {"seconds": said["call"], "cpu": said["cpu"], "added": added, "planned": said["peak"]}
            found[name] |= {"calibrating": said["calibrating"], "resident": cost.resident, "idle": idle.anonymous}
            seconds = [f"{said[key]:.1f}" for key in ("call", "calibrating", "cpu")]
            rows.append([name, *seconds, *(f"{size / MIB:.0f}" for size in (added, said["peak"], cost.anonymous))])
        size = sum(file.stat().st_size for file in store.rglob("*.safetensors"))
    columns = ["stage", "seconds", "of them calibration", "CPU seconds", "adds, MiB", "planned, MiB", "process, MiB"]
    rows.append(["store", "", "", "", "", "", f"{size / MIB:.0f}"])
    measure.report(options, columns, rows, found)


if __name__ == "__main__":
    main()
