"""CPU seconds against mergekit: user and system time of the whole process, same recipe, same inputs.

    python -m venv /tmp/mergekit && /tmp/mergekit/bin/pip install mergekit==0.1.5
    python -m benchmarks.against_mergekit --mergekit /tmp/mergekit --params 1.1

Both run as their users run them: `eutectic merge` and `mergekit-yaml`, start-up and all. mergekit needs minutes for
TIES at 1.1; `--params 0.3` serves for daily runs.
"""

import argparse
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks import make_models, measure, recipes

FLAGS = ["--no-copy-tokenizer", "--no-write-model-card", "--quiet"]


def measure_method(name: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Merges in turns with both and returns what each process cost."""
    base, experts = make_models.model_folders(options.params, options.experts, options.out, options.threads)
    files = work / "ours.yaml", work / "theirs.yaml"
    for file, recipe in zip(files, recipes.pair(name, base, experts), strict=True):
        with file.open("w") as target:
            YAML().dump(recipe, target)
    ours, theirs = work / "ours", work / "theirs"
    eutectic = [Path(sys.executable).with_name("eutectic"), "merge", files[0], "-o", ours, "--memory", options.memory]
    commands = {
        "eutectic": ([*eutectic, "--threads", str(options.threads)], options.rounds),
        "mergekit": ([options.mergekit / "bin" / "mergekit-yaml", files[1], theirs, *FLAGS], options.mergekit_rounds),
    }
    measure.run(commands["eutectic"][0])  # compiles kernels where they are not cached yet
    shutil.rmtree(ours)
    found: dict[str, Any] = {}
    for tool, (command, rounds) in commands.items():
        costs = []
        for _ in range(rounds):
            cost = measure.run(command)
            costs.append({"cpu": cost.cpu, "wall": cost.wall, "peak": cost.anonymous, "resident": cost.resident})
            shutil.rmtree(command[4] if tool == "eutectic" else theirs)
        found[tool] = costs
    return found


def row(name: str, found: dict[str, Any]) -> list[str]:
    """Prints one method's line of the table."""
    ours, theirs = ([cost["cpu"] for cost in found[tool]] for tool in ("eutectic", "mergekit"))
    ratio = statistics.median(theirs) / statistics.median(ours)
    peaks = [f"{max(cost['peak'] for cost in found[tool]) / 2**20:.0f}" for tool in ("eutectic", "mergekit")]
    return [name, measure.spread(ours, 1), measure.spread(theirs, 1), f"**{ratio:.1f}**", *peaks]


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    make_models.add_arguments(parser, params="0.3")
    parser.add_argument("--mergekit", type=Path, required=True, help="a virtual environment with mergekit 0.1.5")
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3, help="runs of eutectic")
    parser.add_argument("--mergekit-rounds", type=int, default=1, help="runs of mergekit")
    choices = list(recipes.AS_MERGEKIT)
    parser.add_argument("--methods", nargs="+", choices=choices, default=choices)
    parser.add_argument("--memory", default="1GiB")
    measure.add_report(parser)
    options = parser.parse_args()
    with measure.work_folder(options.out, "against-mergekit") as work:
        found = measure.each(options.methods, lambda name: measure_method(name, options, work))
    columns = ["method", "eutectic, CPU s", "mergekit, CPU s", "times fewer", "eutectic, MiB", "mergekit, MiB"]
    measure.report(options, columns, [row(name, result) for name, result in found.items()], found)


if __name__ == "__main__":
    main()
