import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from eutectic.api.runs import Calibrating, Finished, Progress, Started
from eutectic.cli.bar import Bar


def drawn(here: Path, *options: str) -> str:
    """What a merge writes to a terminal on standard error."""
    mine, theirs = pty.openpty()
    command = [sys.executable, "-c", "from eutectic.cli import main; main()", "merge", "recipe.yaml", "-o", "out"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=theirs, cwd=here, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                piece = os.read(mine, 1 << 16)
            except OSError:  # Linux's way to say that the other side was closed
                break
            if not piece:
                break
            seen += piece
    os.close(mine)
    assert process.returncode == 0
    return seen.decode()


def test_a_terminal_sees_progress(here: Path) -> None:
    """On a terminal a bar is drawn; --quiet draws none."""
    assert "━" in drawn(here)
    assert drawn(here, "--quiet", "--fresh") == ""


def test_no_terminal_sees_none(capsys: pytest.CaptureFixture[str]) -> None:
    """Every event is taken, and nothing is printed."""
    with Bar(quiet=False) as bar:
        for event in (
            Started(10, 5, False),
            Calibrating(1, 2, "calibrating"),
            Progress(5, 10, "merging"),
            Finished(0.1, 5),
        ):
            bar(event)
    assert capsys.readouterr() == ("", "")
