"""Merges that are made to be scored: a folder that is gone after its score, or a checkpoint that is never written."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from eutectic.api.runs import Plan, download, plan, run
from eutectic.engine.staged import staged
from eutectic.errors import OutputError
from eutectic.recipe.model import Recipe

Show = Literal["folder", "checkpoint"]


class Trials:
    """Scores recipes.

    Args:
        out: where the result will be, once it is known: new or empty. Folders that are scored lie beside it.
        score: what a merge is worth; higher is better.
        show: what `score` is given: a complete model's folder, or an open checkpoint that merges as it is read.
        memory: as in `plan`.
        threads: as in `plan`.

    Raises:
        OutputError: when there is something in the output folder.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        score: Callable[[Any], float],
        show: Show,
        memory: str | int | None,
        threads: int | None,
    ) -> None:
        self.out = Path(os.fspath(out))
        if self.out.exists() and not (self.out.is_dir() and not any(self.out.iterdir())):
            raise OutputError(f"{self.out}: expected a new or empty folder, found something there; choose another")
        self._score, self._show, self._memory, self._threads = score, show, memory, threads

    def plan(self, recipe: Recipe) -> Plan:
        """Plans a recipe within the memory and threads given."""
        return plan(recipe, memory=self._memory, threads=self._threads)

    def score(self, recipe: Recipe, name: str) -> float:
        """Returns what a merge scores; `name` is that of its folder."""
        planned = self.plan(recipe)
        if self._show == "checkpoint":
            download(planned.inputs)
            opened = staged(planned, name)
            try:
                return float(self._score(opened))
            finally:
                opened.source.close()
        folder = Path(self._scratch.name) / name
        run(planned, folder)
        try:
            return float(self._score(folder))
        finally:
            shutil.rmtree(folder)

    def __enter__(self) -> "Trials":
        beside = self.out.absolute().parent
        beside.mkdir(parents=True, exist_ok=True)
        self._scratch = tempfile.TemporaryDirectory(prefix=f".{self.out.name}.", dir=beside)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scratch.cleanup()
