"""The command line: `eutectic VERB ...`, one file a verb."""

from eutectic.cli.main import build, main, program

__all__ = ["build", "main", "program"]
