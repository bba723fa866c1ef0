"""What the verbs share: messages on standard error, JSON on standard output, exit codes."""

import json
from typing import Any

import typer

from eutectic.errors import EutecticError

FAILED, REFUSED, INTERRUPTED = 1, 2, 130


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
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))
