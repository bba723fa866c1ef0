"""Trains, merges, scores and writes the table.

    python -m benchmarks.results train FOLDER --cache CACHE
    python -m benchmarks.results run FOLDER --cache CACHE --suite lora
    python -m benchmarks.results write FOLDER --cache CACHE

FOLDER is laid out as the testbed: `text/data`, `text/lora`, `vision/data`, `vision/experts`. Everything is kept in
CACHE, and the same command goes on where it was stopped.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from transformers.utils import logging

from benchmarks.results import report
from benchmarks.results.rows import ROWS
from benchmarks.results.run import Runner, Suite
from benchmarks.results.text import TASKS, Texts, TextSuite
from benchmarks.results.train import train_experts
from benchmarks.results.vision import VisionSuite

SUITES = ("full", "lora", "vision")
SAMPLES = (1, 2, 3)


def suite_of(name: str, folder: Path, cache: Path, rows: int) -> Suite:
    """Returns a suite of the testbed; the experts of `full` must have been trained."""
    if name == "vision":
        return VisionSuite(folder / "vision", cache / "vision")
    texts, place = Texts(folder / "text"), cache / "full" if name == "full" else folder / "text" / "lora"
    tables = cache / "tables"
    texts.write_tables(tables)
    return TextSuite(name, texts, {task: place / task for task in TASKS}, tables, rows)


def run(suite: Suite, cache: Path, names: list[str]) -> None:
    """Carries out the rows of a suite, one sample of each before the second of any."""
    runner = Runner(suite, cache)
    runner.references()
    for sample in SAMPLES:
        for row in ROWS:
            wanted = suite.name in row.suites and (sample == SAMPLES[0] or row.drawn)
            if not wanted or (names and row.name not in names):
                continue
            began = time.perf_counter()
            try:
                made = runner.row(row, sample)
            except Exception as error:  # noqa: BLE001 - the other rows go on; the report lists what is missing
                print(f"{suite.name} {row.name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                continue
            unseen = "" if suite.unseen is None else f" unseen {made.mean([suite.unseen]):.3f}"
            took = time.perf_counter() - began
            print(
                f"{suite.name} {row.name} [{sample}] {made.number}: {made.mean(suite.tasks):.4f}{unseen} {took:.0f} s",
                flush=True,
            )


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("train", "run", "write"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--suite", choices=SUITES, default="lora")
    parser.add_argument("--row", action="append", default=[], help="only this row (may be given again)")
    parser.add_argument("--test-rows", type=int, default=500, help="test rows a text task")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if options.stage == "train":
        train_experts(Texts(options.folder / "text"), options.cache / "full")
    elif options.stage == "run":
        suite = suite_of(options.suite, options.folder, options.cache, options.test_rows)
        run(suite, options.cache, options.row)
    else:
        report.write(options.cache, Path("docs/results.md"))


if __name__ == "__main__":
    main()
