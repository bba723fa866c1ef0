"""How time grows: per parameter from one size to the next, and per model from two models to eight.

    python -m benchmarks.growth --sizes 0.1 0.3 1.1 --models 2 4 8

Seconds from the first byte read to the rename, as the receipt reports, over parameters times inputs. The copy limit of
the same files, measured in turns, says what part of it is the disk's.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks import make_models, measure, recipes
from benchmarks.speed import set_cache


def measure_point(name: str, params: str, experts: int, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Returns nanoseconds per parameter and input, and the ratio to the copy limit, by turn."""
    base, folders = make_models.model_folders(params, experts, options.out, options.threads)
    recipe, inputs = recipes.recipe(name, base, folders), recipes.inputs_of(name, base, folders)
    elements = make_models.SHAPES[params].parameters * len(inputs)
    measure.merge(recipe, work, memory=options.memory, threads=options.threads)
    turns = []
    for _ in range(options.rounds):
        set_cache("warm", inputs)
        limit = measure.copy(inputs, work, options.threads)
        said, _ = measure.merge(recipe, work, memory=options.memory, threads=options.threads)
        turns.append({"ns": said["seconds"] / elements * 1e9, "ratio": said["seconds"] / limit.seconds})
    return {"method": name, "params": params, "experts": experts, "inputs": len(inputs), "turns": turns}


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    make_models.add_arguments(parser, params="0.15")
    parser.add_argument("--sizes", nargs="*", default=["0.1", "0.3", "1.1"], help="with three experts each")
    parser.add_argument("--models", nargs="*", type=int, default=[2, 4, 8], help="experts, at the size --params")
    parser.add_argument("--methods", nargs="+", choices=list(recipes.METHODS), default=["linear", "ties_tensor"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", default="1GiB")
    measure.add_report(parser)
    options = parser.parse_args()
    points = [(size, 3) for size in options.sizes] + [(options.params, experts) for experts in options.models]
    keys = {
        f"{name} {size}B x {experts}": (name, size, experts) for name in options.methods for size, experts in points
    }
    with measure.work_folder(options.out, "growth") as work:
        found = measure.each(list(keys), lambda key: measure_point(*keys[key], options, work))
    rows = []
    for entry in found.values():
        ns, ratio = (measure.spread(turn[key] for turn in entry["turns"]) for key in ("ns", "ratio"))
        rows.append([entry["method"], f"{entry['params']}B", str(entry["experts"]), ns, ratio])
    columns = ["method", "size", "experts", "ns per parameter and input", "over the copy limit"]
    measure.report(options, columns, rows, found)


if __name__ == "__main__":
    main()
