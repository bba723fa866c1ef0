"""`eutectic stats`: list or delete what calibration has stored."""

from pathlib import Path
from typing import Annotated

import typer

from eutectic.api import statistics
from eutectic.cli.options import AsJson, Store
from eutectic.cli.show import put
from eutectic.quantities import format_bytes


def stats(
    store: Store = None,
    delete: Annotated[
        list[str] | None, typer.Option(help="Delete the results whose digest begins so; may be given several times.")
    ] = None,
    everything: Annotated[bool, typer.Option("--delete-all", help="Delete all stored results.")] = False,
    as_json: AsJson = False,
    spectra: Annotated[str | None, typer.Option(help="Draw the spectra of the anchors whose digest begins so.")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The picture, an SVG file.")] = Path("spectra.svg"),
) -> None:
    """List or delete stored statistics of data."""
    if spectra is not None:
        drawn = statistics.draw_spectra(spectra, out, store)
        typer.echo(f"{out}: {len(drawn)} spectra")
        return
    chosen = [entry.digest for entry in statistics.stored(store)] if everything else delete or []
    if chosen:
        freed = sum(statistics.delete(digest, store) for digest in chosen)
        typer.echo(f"deleted {len(chosen)} results, {format_bytes(freed)}")
        return
    entries = statistics.stored(store)
    if as_json:
        put([{"digest": e.digest, "bytes": e.nbytes, "finished": e.finished, **e.about} for e in entries])
        return
    for entry in entries:
        state = "" if entry.finished else ", unfinished"
        about = entry.about
        typer.echo(
            f"{entry.digest[:12]}  {format_bytes(entry.nbytes):>10}  {about['statistic']} of {about['model']} on "
            f"{about['samples']} samples of {about['data']}{state}"
        )
    folder = statistics.default_store() if store is None else store
    typer.echo(f"{len(entries)} results, {format_bytes(sum(e.nbytes for e in entries))} in {folder}")
