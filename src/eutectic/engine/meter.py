"""Measures what a run really held: anonymous resident memory, sampled while it runs."""

import threading
from pathlib import Path
from types import TracebackType


def anonymous_bytes() -> int:
    """Returns this process's resident memory without mapped files, in bytes; 0 where the system does not say."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class Meter:
    """Samples memory every 20 ms between `with` and its end: `before` at the start, `peak` the most above it."""

    def __init__(self) -> None:
        self.before = anonymous_bytes()
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.sample()

    def sample(self) -> None:
        """Takes one sample."""
        self.peak = max(self.peak, anonymous_bytes() - self.before)

    def __enter__(self) -> "Meter":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sample()
        self._stop.set()
        self._thread.join()
