"""What the verbs share: messages on standard error, JSON on standard output, progress with bytes and time left."""

import json
import time
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from eutectic import api
from eutectic.errors import EutecticError

REFUSED, FAILED = 2, 1


class Failure(Exception):
    """An error met while running, as against one found before any work."""

    def __init__(self, error: EutecticError) -> None:
        super().__init__(str(error))
        self.error = error


def fail(message: str) -> None:
    """Prints an error on standard error."""
    typer.echo(f"error: {message}", err=True)


def put(data: Any) -> None:
    """Prints data as JSON on standard output."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


class Bar:
    """An observer that draws a bar on standard error while a run goes on; nothing when that is no terminal."""

    def __init__(self, quiet: bool) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description:9}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True)
        self._task = self._bar.add_task("reading", total=None)
        self._last = 0.0

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, event: api.Event) -> None:
        """Takes one event; draws at most twenty times a second."""
        now = time.monotonic()
        if isinstance(event, api.Progress) and now - self._last > 0.05:
            self._last = now
            self._bar.update(self._task, completed=event.read, total=event.total, description=event.doing)
