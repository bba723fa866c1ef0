"""Where an output grows before it appears: a hidden folder beside it, renamed when it is whole.

out/                     appears in one rename, complete
.out.eutectic/           journal, weight files (unsealed: their headers open nowhere), then the other files
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from eutectic.checkpoint.sidecars import RECEIPT
from eutectic.engine.journal import Journal
from eutectic.errors import OutputError

JOURNAL = "journal"


def finished(out: Path, job: str) -> dict[str, Any] | None:
    """Returns the receipt of an output that this very job finished before; None when there is no output.

    Raises:
        OutputError: when something else is there.
    """
    if not out.exists() and not out.is_symlink():
        return None
    if not out.is_dir():
        raise OutputError(f"{out}: expected a new or empty folder, found a file; choose another output")
    if not any(out.iterdir()):
        if out.is_symlink():  # a folder can take an empty folder's place, and not a link's
            raise OutputError(f"{out}: expected a new or empty folder, found a link; name {out.resolve()} itself")
        return None
    try:
        receipt = json.loads((out / RECEIPT).read_text())
    except (OSError, ValueError):
        receipt = {}
    if isinstance(receipt, dict) and receipt.get("job") == job:
        return receipt
    whose = "the output of another job" if receipt else "a folder with other files"
    raise OutputError(f"{out}: expected a new or empty folder, found {whose}; choose another output or remove it")


class Staging:
    """The hidden folder of one output, owned by this process.

    Args:
        out: where the output will appear.
        job: the job's digest.
        resume: go on with what an earlier run of this job left; else start over.

    Raises:
        OutputError: when it cannot be made, belongs to another job, or another process is writing there.
    """

    def __init__(self, out: Path, job: str, *, resume: bool) -> None:
        self.out = out.absolute()
        self.folder = self.out.parent / f".{self.out.name}.eutectic"
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(exist_ok=True)
            self.journal = Journal(self.folder / JOURNAL, job)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot write there: {error.strerror or error}") from error
        owner = self.journal.owner
        if owner is not None and owner != job and resume:
            self.journal.close()
            raise OutputError(
                f"{self.folder}: holds the unfinished work of another job (its recipe, inputs or version differ); "
                "finish that one, or discard it with --fresh"
            )
        if owner != job or not resume:
            self._clear()
            self.journal.begin()
        else:
            self.journal.resume()

    def _clear(self) -> None:
        for entry in self.folder.iterdir():
            if entry.name != JOURNAL:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def publish(self) -> None:
        """Makes the output appear: everything in it is synced already.

        Raises:
            OutputError: when it cannot be renamed.
        """
        try:
            (self.folder / JOURNAL).unlink()
            _sync(self.folder)
            os.rename(self.folder, self.out)
            _sync(self.out.parent)
        except OSError as error:
            raise OutputError(f"{self.out}: cannot put the output in place: {error.strerror or error}") from error

    def close(self) -> None:
        """Gives up ownership; unfinished work stays for the next run."""
        self.journal.close()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
