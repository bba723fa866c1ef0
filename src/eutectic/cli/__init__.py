"""The command line: `eutectic VERB ...`, one file a verb."""

from eutectic.cli.main import app, main

__all__ = ["app", "main"]
