"""`eutectic search`: search for the weights of a recipe's models by what a command says of each merge."""

import shlex
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from eutectic.api import searches
from eutectic.cli.options import AsJson, Memory, Quiet, RecipeFile, Threads
from eutectic.cli.show import Failure, put
from eutectic.errors import EutecticError, OutputError, RecipeError


def search(
    recipe: RecipeFile,
    score: Annotated[
        str,
        typer.Option(help="A command that is given a merged folder and prints its score last; higher is better."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The output folder: new or empty.")],
    budget: Annotated[int, typer.Option(help="Scores at most.")] = 40,
    bound: Annotated[float, typer.Option(help="The largest magnitude of a weight.")] = 1.5,
    penalty: Annotated[float, typer.Option(help="Of the weights' mean magnitude, in units of the score.")] = 0.05,
    memory: Memory = None,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Search for the weights of a recipe's models by a score (LoraHub).

    The best merge is written, with its recipe, which needs no score to be run again.
    """
    words = shlex.split(score)

    def scored(folder: Path) -> float:
        found = _ask(words, folder)
        if not (quiet or as_json):
            typer.echo(f"{found:.6g}", err=True)
        return found

    try:
        found = searches.search_weights(
            recipe, scored, out=out, budget=budget, bound=bound, penalty=penalty, memory=memory, threads=threads
        )
    except (RecipeError, OutputError):
        raise
    except EutecticError as error:
        raise Failure(error) from error
    if as_json:
        trials = [{"weights": each.weights, "score": each.score, "loss": each.loss} for each in found.trials]
        put({"out": str(out), "weights": found.weights, "score": found.score, "trials": trials})
        return
    weights = ", ".join(f"{name} {weight:.3g}" for name, weight in zip(found.recipe.names, found.weights, strict=True))
    typer.echo(f"{out}: score {found.score:.6g} of {len(found.trials)} trials; {weights}")


def _ask(words: list[str], folder: Path) -> float:
    """Runs the scorer on a folder.

    Raises:
        RecipeError: when it cannot be run, fails, or its last line is not a number.
    """
    try:
        done = subprocess.run([*words, str(folder)], stdout=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise RecipeError(f"--score: {words[0] if words else 'nothing'} cannot be run: {error.strerror}") from error
    lines = done.stdout.split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if done.returncode:
        raise RecipeError(f"--score: {shlex.join(words)} ended with code {done.returncode}")
    try:
        return float(last)
    except ValueError:
        raise RecipeError(f"--score: expected a number on the last line of {words[0]}, found {last!r}") from None
