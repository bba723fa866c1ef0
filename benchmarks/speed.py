"""How near to copying: wall time of a merge over the copy limit of the same files, measured in turns in one run.

    python -m benchmarks.speed --params 1.1 --rounds 5

Both are fresh processes with as many threads. The limit reads every input byte once and writes the output once
(`copy_limit`); the merge counts from the first byte read to the final rename, as its receipt reports. fsync and rename
are in both. With `--cache warm` the inputs are read once beforehand; with `cold` their pages are dropped before each
turn. Start-up (interpreter, imports, plan) is stated apart.
"""

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import make_models, measure, recipes

DEFAULT = ["linear", "task_arithmetic", "slerp", "dare", "ties_tensor", "ties_model"]


def set_cache(state: str, folders: list[Path]) -> None:
    """Brings the inputs' pages into the system's cache, or drops them from it."""
    for path in (file for folder in folders for file in sorted(folder.glob("*.safetensors"))):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if state == "cold":
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while os.read(descriptor, 8 << 20):
                    pass
        finally:
            os.close(descriptor)


def measure_method(name: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measures the copy limit and the merge in turns, after one unmeasured turn that also compiles missing kernels."""
    base, experts = make_models.model_folders(options.params, options.experts, options.out, options.threads)
    recipe, inputs = recipes.recipe(name, base, experts), recipes.inputs_of(name, base, experts)
    set_cache(options.cache, inputs)
    measure.copy(inputs, work, options.threads)
    first, _ = measure.merge(recipe, work, memory=options.memory, threads=options.threads)
    turns = []
    for turn in range(options.rounds):
        # Who goes first changes: the second finds memory that the first made the system fetch.
        found: dict[str, Any] = {}
        for what in ("limit", "merge") if turn % 2 else ("merge", "limit"):
            set_cache(options.cache, inputs)
            if what == "limit":
                found["limit"] = asdict(measure.copy(inputs, work, options.threads))
            else:
                said, cost = measure.merge(recipe, work, memory=options.memory, threads=options.threads)
                found |= {"merge": said, "wall": cost.wall, "cpu": cost.cpu, "peak": cost.anonymous}
        turns.append(found)
    return {"first run": first, "turns": turns}


def row(name: str, found: dict[str, Any]) -> list[str]:
    """Prints one method's line of the table."""
    turns = found["turns"]
    return [
        name,
        measure.spread(turn["limit"]["seconds"] for turn in turns),
        measure.spread(turn["merge"]["seconds"] for turn in turns),
        "**" + measure.spread(turn["merge"]["seconds"] / turn["limit"]["seconds"] for turn in turns) + "**",
        measure.spread(turn["merge"]["done"] - turn["merge"]["seconds"] for turn in turns),
        measure.spread((turn["cpu"] for turn in turns), 1),
        f"{max(turn['peak'] for turn in turns) / 2**20:.0f}",
    ]


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    make_models.add_arguments(parser, params="1.1")
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=list(recipes.METHODS), default=DEFAULT)
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--cache", choices=["warm", "cold"], default="warm")
    measure.add_report(parser)
    options = parser.parse_args()
    with measure.work_folder(options.out, "speed") as work:
        found = measure.each(options.methods, lambda name: measure_method(name, options, work))
    columns = ["method", "copy limit, s", "merge, s", "ratio", "start-up, s", "CPU s", "peak anonymous, MiB"]
    measure.report(options, columns, [row(name, result) for name, result in found.items()], found)


if __name__ == "__main__":
    main()
