"""Collects the verbs, and turns errors into messages and exit codes.

Exit codes: 0 done; 2 refused before any work (a wrong recipe, broken or unfit files, too small a budget, an output
that is taken); 1 failed while running (finished work is kept); 130 interrupted.
"""

import atexit
import gc
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Annotated

import typer

from eutectic.about import VERSION
from eutectic.cli.show import FAILED, INTERRUPTED, REFUSED, Failure, fail
from eutectic.errors import EutecticError

#: What each verb does; the file `eutectic.cli.VERB` has the rest.
VERBS = {
    "merge": "Merge models by a recipe.",
    "calibrate": "Take the statistics of data that a recipe asks for, ahead of the merge.",
    "learn": "Learn the weights of a recipe's task arithmetic from unlabelled data (AdaMerging).",
    "search": "Search for the weights of a recipe's models by a score (LoraHub).",
    "surgery": "Fit adapters of a merged model's features to its experts' (Representation Surgery).",
    "stats": "List or delete stored statistics of data.",
    "plan": "Show what a merge costs and does.",
    "convert": "Write a recipe of mergekit's in our dialect, its traps mended.",
    "inspect": "Show names, roles, shapes and types of a model's tensors.",
    "specialise": "Make the model of one task from an output that holds parts for several.",
    "methods": "List the methods, or show one in full.",
    "verify": "Check an output: merge tensors again and compare bytes.",
    "diff": "Compare two checkpoints tensor by tensor, most changed first.",
    "schema": "Print the JSON Schema of recipes.",
    "adapter": "Extract, merge, fold and inspect adapters.",
}
#: Verbs that read recipes, and so take mergekit's flags beside its recipes.
_WITH_FLAGS = ("merge", "plan", "convert")
_DEBUG = "--debug"


def build(arguments: Sequence[str]) -> typer.Typer:
    """Returns the application, with the verb that the arguments call for loaded, and the others by name alone.

    Only that one is imported: torch takes longer to load than `inspect` takes to read a header.
    """
    app = typer.Typer(
        name="eutectic",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_options)
    for verb, does in VERBS.items():
        loaded = _load(verb) if verb in arguments else None
        if isinstance(loaded, typer.Typer):
            app.add_typer(loaded, name=verb)
        elif loaded is not None:
            app.command(verb, epilog=f"{_DEBUG} shows the traceback of an error.")(loaded)
        else:
            app.command(verb, help=does)(_unloaded)
    return app


def _load(verb: str) -> Callable[..., None] | typer.Typer:
    function: Callable[..., None] | typer.Typer = getattr(import_module(f"eutectic.cli.{verb}"), verb)
    return function


def _unloaded() -> None:
    """Stands for a verb that the arguments do not name, and so never runs."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"eutectic {VERSION}")
        raise typer.Exit()


def _options(
    debug: Annotated[bool, typer.Option(_DEBUG, help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Merge models: recipes in, a merged checkpoint out."""
    del debug, version  # the one is taken in `main`, wherever it stands; the other has been answered


def _theirs(given: list[str]) -> tuple[list[str], list[str]]:
    """Takes mergekit's flags out of the arguments of a verb that reads recipes.

    Raises:
        RecipeError: for a command of mergekit's, with what serves instead.
    """
    if given and given[0] in _WITH_FLAGS:
        return import_module("eutectic.cli.flags").split_flags(given)  # type: ignore[no-any-return]
    if given and given[0] not in VERBS and not given[0].startswith("-"):
        import_module("eutectic.cli.flags").refuse_command(given[0])
    return given, []


def program() -> None:
    """Runs the command line as the whole process, which ends without freeing its objects one by one.

    The system frees them at once; Python takes a third of a second for it, after the output stands.
    """
    # Each collection walks all that imports made; a run makes little that only a collection would free.
    gc.set_threshold(100_000, 50, 50)
    code = FAILED

    def leave() -> None:
        with suppress(OSError):  # who read the output may have gone
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

    atexit.register(leave)  # the first to be registered is the last to run
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else FAILED if stop.code else 0
        raise


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line, and ends the process with an exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = _DEBUG in given
    # The library's pool would spin beside our own threads, and no verb hands it anything: it is told before it starts.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    given = [each for each in given if each != _DEBUG]
    try:
        given, flags = _theirs(given)
        build(given)(given, prog_name="eutectic", obj=flags)
    except Failure as failure:
        _report(failure.error, FAILED, debug)
    except EutecticError as error:
        _report(error, REFUSED, debug)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            fail("interrupted; the same command resumes a merge where it was")
        raise
    except BrokenPipeError:
        # Who read the output has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except Exception as error:
        if debug:
            raise
        fail(f"unexpected {type(error).__name__}: {error}\nplease report this, with the output of {_DEBUG}")
        sys.exit(FAILED)


def _report(error: BaseException, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    fail(str(error))
    sys.exit(code)
