"""Progress on a terminal: what the run is at, bytes, speed and time left."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from eutectic.api.runs import Calibrating, Event
from eutectic.api.runs import Progress as Read


class Bar:
    """An observer that draws a bar on standard error while a run goes on; nothing when that is no terminal.

    Args:
        quiet: draw nothing at all.
    """

    def __init__(self, quiet: bool) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description:11}"),
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Takes one event; draws at most twenty times a second."""
        now = time.monotonic()
        if isinstance(event, Calibrating):
            self._bar.update(self._task, description=f"{event.doing}, {event.done} of {event.total}")
        if isinstance(event, Read) and now - self._last > 0.05:
            self._last = now
            self._bar.update(self._task, completed=event.read, total=event.total, description=event.doing)
