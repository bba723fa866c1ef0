"""Carries the rows out through the API, and keeps every score in a file of JSON lines, so that a run resumes."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import eutectic
from benchmarks.results.rows import LEARNING, Given, Parts, Row

Hits = Mapping[str, Sequence[bool]]
BASE, EXPERTS = "base", "own expert"


class Suite(Protocol):
    """Some experts of one base, with the tasks that judge them."""

    name: str
    tasks: Sequence[str]
    unseen: str | None
    experts: Mapping[str, Path]
    base: Path

    def recipe(self, parts: Parts, data: int, sample: int) -> dict[str, Any]:
        """A whole recipe, with its data if it looks at so many samples a task."""
        ...

    def plan(self, recipe: dict[str, Any], data: int, sample: int, store: Path) -> eutectic.Plan:
        """Plans it."""
        ...

    def hits(self, folder: Path, *, validation: bool = False, surgery: eutectic.Surgery | None = None) -> Hits:
        """Which rows a model folder gets right, by task."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """One merge, scored.

    Attributes:
        digest: of all that decides it.
        suite, row, sample, number: what was merged.
        seconds: of merging, with data and learning where they were not stored.
        hits: by task, which rows were right.
    """

    digest: str
    suite: str
    row: str
    split: str
    sample: int
    number: float | None
    seconds: float
    hits: Hits

    def mean(self, tasks: Iterable[str]) -> float:
        """The mean accuracy of tasks."""
        shares = [sum(self.hits[task]) / len(self.hits[task]) for task in tasks]
        return sum(shares) / len(shares)


def pack(flags: Sequence[bool]) -> str:
    """Writes flags as hexadecimal digits behind their count."""
    return f"{len(flags)}:{int('1' + ''.join(str(int(flag)) for flag in flags), 2):x}"


def unpack(text: str) -> list[bool]:
    """Reads them back."""
    count, digits = text.split(":")
    bits = f"{int(digits, 16):b}"[1:]
    if len(bits) != int(count):
        raise ValueError(f"expected {count} flags, found {len(bits)}")
    return [bit == "1" for bit in bits]


class Scores:
    """Evaluations in a file of JSON lines, by digest; a line that was cut off is made again."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: dict[str, Evaluation] = {}
        for line in file.read_text().splitlines() if file.exists() else []:
            try:
                raw = json.loads(line)
            except json.JSONDecodeError:
                continue
            hits = {task: unpack(text) for task, text in raw.pop("hits").items()}
            self.found[raw["digest"]] = Evaluation(**raw, hits=hits)

    def add(self, made: Evaluation) -> None:
        """Keeps one more."""
        self.found[made.digest] = made
        raw = {**asdict(made), "hits": {task: pack(flags) for task, flags in made.hits.items()}}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as file:
            file.write(json.dumps(raw) + "\n")


def digest_of(*facts: object) -> str:
    """A digest of plain data."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class Runner:
    """Makes what is not there yet, a row at a time."""

    def __init__(self, suite: Suite, cache: Path) -> None:
        self.suite = suite
        self.scores = Scores(cache / f"{suite.name}.jsonl")
        self.store = cache / "statistics" / suite.name
        self.work = cache / "work" / suite.name
        self.chosen: dict[str, float] = {}

    def references(self) -> None:
        """Scores the base, and each expert on its own task."""
        suite = self.suite
        self._kept(self._empty(BASE, digest_of(suite.name, BASE)), lambda: suite.hits(suite.base))
        self._kept(self._empty(EXPERTS, digest_of(suite.name, EXPERTS)), self._experts)

    def row(self, row: Row, sample: int) -> Evaluation:
        """Chooses the row's number on validation rows, and scores its merge on test rows."""
        shutil.rmtree(self.work, ignore_errors=True)
        numbers = row.numbers
        if len(numbers) > 1:
            tried = {number: self._evaluate(row, sample, number, "validation") for number in numbers}
            best = max(tried, key=lambda number: tried[number].mean(self.suite.tasks))
        else:
            best = numbers[0] if numbers else None
        if best is not None:
            self.chosen[row.name] = best
        made = self._evaluate(row, sample, best, "test")
        shutil.rmtree(self.work, ignore_errors=True)
        return made

    def _experts(self) -> Hits:
        found = {}
        for task, path in self.suite.experts.items():
            alone = {"base": str(self.suite.base), "models": [str(path)], "method": "task_arithmetic"}
            recipe = {**self.suite.recipe({"method": "task_arithmetic"}, 0, 0), **alone}
            out = self.work / task
            shutil.rmtree(out, ignore_errors=True)
            eutectic.run(self.suite.plan(recipe, 0, 0, self.store), out=out)
            found[task] = self.suite.hits(out)[task]
            shutil.rmtree(out)
        return found

    def _empty(self, row: str, digest: str) -> Evaluation:
        return Evaluation(digest, self.suite.name, row, "test", 0, None, 0.0, {})

    def _kept(self, empty: Evaluation, score: Any) -> Evaluation:
        if empty.digest not in self.scores.found:
            self.scores.add(replace(empty, hits=score()))
        return self.scores.found[empty.digest]

    def _evaluate(self, row: Row, sample: int, number: float | None, split: str) -> Evaluation:
        parts = row.parts(Given(number or 0.0, self.chosen, len(self.suite.experts)))
        facts = (self.suite.name, parts, row.data, sample if row.drawn else 0, row.then, row.by)
        learned = LEARNING if row.then == "learn" else None
        digest = digest_of(*facts, learned, split)
        if digest in self.scores.found:
            return self.scores.found[digest]
        out = self.work / digest_of(*facts)
        seconds = 0.0
        surgery = None
        if not out.exists():
            began = time.perf_counter()
            surgery = self._make(row, parts, sample, out)
            seconds = time.perf_counter() - began
        hits = self.suite.hits(out, validation=split == "validation", surgery=surgery)
        made = Evaluation(digest, self.suite.name, row.name, split, sample, number, round(seconds, 2), hits)
        self.scores.add(made)
        return made

    def _make(self, row: Row, parts: Parts, sample: int, out: Path) -> eutectic.Surgery | None:
        recipe = self.suite.recipe(parts, row.data, sample)
        if row.then == "learn":
            learning = eutectic.plan_learning(recipe, by=row.by, store=self.store, threads=1, **LEARNING)
            eutectic.run(eutectic.plan(eutectic.learn(learning).recipe, store=self.store), out=out)
            return None
        if row.then == "surgery":
            plain = {key: value for key, value in recipe.items() if key != "calibration"}
            eutectic.run(eutectic.plan(plain, store=self.store), out=out)
            return eutectic.surgery(eutectic.plan_surgery(recipe, out, store=self.store))
        eutectic.run(self.suite.plan(recipe, row.data, sample, self.store), out=out)
        return None
