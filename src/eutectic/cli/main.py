"""Collects the verbs, and turns errors into messages and exit codes.

Exit codes: 0 done; 2 refused before any work (a wrong recipe, broken or unfit files, too small a budget, an output
that is taken); 1 failed while running (finished work is kept); 130 interrupted.
"""

import sys
import traceback

import typer

from eutectic.about import VERSION
from eutectic.cli.diff import diff
from eutectic.cli.inspect import inspect
from eutectic.cli.merge import merge
from eutectic.cli.methods import methods
from eutectic.cli.plan import plan
from eutectic.cli.schema import schema
from eutectic.cli.show import FAILED, REFUSED, Failure, fail
from eutectic.cli.verify import verify
from eutectic.errors import EutecticError

app = typer.Typer(
    name="eutectic",
    help="Merge models: recipes in, a merged checkpoint out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (merge, plan, inspect, methods, verify, diff, schema):
    app.command()(verb)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"eutectic {VERSION}")
        raise typer.Exit()


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Merge models: recipes in, a merged checkpoint out."""


def main() -> None:
    """Runs the command line."""
    try:
        app()
    except Failure as failure:
        _report(failure.error, FAILED)
    except EutecticError as error:
        _report(error, REFUSED)
    except KeyboardInterrupt:
        fail("interrupted; what is done is kept, and the same command resumes it")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(FAILED)
    except Exception as error:  # a bug of ours, or an operating system's refusal nobody foresaw
        if "--debug" not in sys.argv:
            fail(f"unexpected {type(error).__name__}: {error}\nplease report this, with the output of --debug")
            sys.exit(FAILED)
        raise


def _report(error: BaseException, code: int) -> None:
    if "--debug" in sys.argv:
        traceback.print_exception(error)
    fail(str(error))
    sys.exit(code)
