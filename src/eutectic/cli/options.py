"""Options that several verbs take, described once."""

from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a YAML or JSON file.")]
Memory = Annotated[
    str | None,
    typer.Option(
        help="What the run may hold, such as 256MiB, interpreter and libraries not counted. "
        "Default: half of the machine's."
    ),
]
Threads = Annotated[int | None, typer.Option(help="Workers. Default: one a usable core.")]
Device = Annotated[str, typer.Option(help="cpu, or where torch computes (cuda).")]
Store = Annotated[
    Path | None,
    typer.Option(help="Folder of stored statistics of data. Default: in the user's cache folder.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Offline = Annotated[bool, typer.Option("--offline", help="Do not download.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Transductive = Annotated[bool, typer.Option("--transductive", help="Allow test data.")]
