"""`eutectic verify`: make an output's tensors again and compare."""

from pathlib import Path
from typing import Annotated

import typer

from eutectic.api import runs
from eutectic.cli.options import AsJson, Memory, Store, Threads
from eutectic.cli.show import FAILED, fail, put


def verify(
    out: Annotated[Path, typer.Argument(help="A folder that eutectic wrote.")],
    everything: Annotated[bool, typer.Option("--all", help="Every tensor, not a sample.")] = False,
    sample: Annotated[int, typer.Option(help="How many tensors, spread evenly over the output.")] = 16,
    root: Annotated[Path | None, typer.Option(help="Where the recipe's relative paths start. Default: here.")] = None,
    memory: Memory = None,
    threads: Threads = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Check an output: merge tensors again and compare bytes. A sample of them, unless --all is given."""
    count = None if everything else sample
    found = runs.verify(out, sample=count, memory=memory, threads=threads, root=root, store=store)
    if as_json:
        put(
            {
                "ok": found.ok,
                "checked": list(found.checked),
                "differing": found.differing,
                "changed": list(found.changed),
            }
        )
    elif found.ok:
        typer.echo(f"{out}: {len(found.checked)} tensors made again, every byte equal")
    for reference in found.changed:
        typer.echo(f"note: {reference} is not the file it was when the output was made, or was copied since", err=True)
    if not found.ok:
        for name, count in found.differing.items():
            fail(f"{out}: tensor '{name}' differs from what its recipe makes in {count} bytes")
        raise typer.Exit(FAILED)
