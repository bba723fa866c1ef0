"""Peak memory of a fresh process within a budget, and that it does not grow with the model.

    python -m benchmarks.memory --sizes 0.3 1.1 --memory 256MiB

Resident memory that is no file's pages (the system may drop those at will), sampled every 5 ms from outside. What the
interpreter and the libraries take is stated apart: a process that imports everything and plans, but merges nothing.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks import make_models, measure, recipes

DEFAULT = ["linear", "task_arithmetic", "slerp", "dare", "ties_tensor", "ties_model", "model_stock"]
MIB = 2**20


def measure_size(params: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Returns, by method, the peak of planning and the peaks of merging, in bytes."""
    base, experts = make_models.model_folders(params, options.experts, options.out, options.threads)
    found = {}
    for name in options.methods:
        recipe = recipes.recipe(name, base, experts)
        settings = {"memory": options.memory, "threads": options.threads}
        _, idle = measure.merge(recipe, work, plan_only=True, **settings)
        merges = [measure.merge(recipe, work, **settings) for _ in range(options.rounds)]
        found[name] = {
            "libraries": idle.anonymous,
            "peaks": [cost.anonymous for _, cost in merges],
            "resident": [cost.resident for _, cost in merges],
            "planned": merges[0][0]["peak"],
        }
    return found


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    make_models.add_arguments(parser)
    parser.add_argument("--sizes", nargs="+", default=["0.3", "1.1"], help="models to compare; instead of --params")
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=list(recipes.METHODS), default=DEFAULT)
    parser.add_argument("--memory", default="256MiB")
    measure.add_report(parser)
    options = parser.parse_args()
    with measure.work_folder(options.out, "memory") as work:
        found = measure.each(options.sizes, lambda params: measure_size(params, options, work))
    columns = ["method"]
    for size in options.sizes:
        columns += [f"{size}B: libraries, MiB", "merging adds, MiB", "planned, MiB"]
    rows = []
    for name in options.methods:
        cells = [name]
        for size in options.sizes:
            entry = found[size][name]
            added = [(peak - entry["libraries"]) / MIB for peak in entry["peaks"]]
            cells += [f"{entry['libraries'] / MIB:.0f}", measure.spread(added, 0), f"{entry['planned'] / MIB:.0f}"]
        rows.append(cells)
    measure.report(options, columns, rows, found)


if __name__ == "__main__":
    main()
