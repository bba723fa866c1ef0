"""`eutectic inspect`: what a model or adapter holds."""

from collections import Counter
from typing import Annotated

import typer

from eutectic.api import models
from eutectic.cli.options import AsJson, Offline
from eutectic.cli.show import put
from eutectic.quantities import format_bytes


def inspect(
    model: Annotated[str, typer.Argument(help="A path, org/name@revision, or one of these +adapter.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    pickles: Annotated[bool, typer.Option("--pickles", help="Allow torch pickle files (tensors only).")] = False,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Show names, roles, shapes and types of a model's tensors. Reads headers only."""
    seen = models.inspect(model, pickles=pickles, offline=offline)
    if as_json:
        put(seen.describe())
        return
    total = sum(spec.nbytes for spec in seen.header.values())
    count = sum(spec.numel for spec in seen.header.values())
    types = Counter(str(spec.dtype) for spec in seen.header.values())
    typer.echo(
        f"{model}: {len(seen.header)} tensors, {count:,} elements, {format_bytes(total)}"
        f"{', differences from a base' if seen.deltas else ''}"
    )
    typer.echo(f"types     {', '.join(f'{name} ({many})' for name, many in types.most_common())}")
    for stack, blocks in seen.layout.stacks.items():
        typer.echo(f"blocks    {blocks} in {stack}")
    for group in seen.layout.tied:
        typer.echo(f"tied      {' = '.join(group)}")
    roles = Counter(place.role.value for place in seen.layout.places.values())
    typer.echo(f"roles     {', '.join(f'{role} ({many})' for role, many in roles.most_common())}")
    for task, parts in seen.tasks.items():
        typer.echo(f"task      {task}: {', '.join(parts.kinds)}, {format_bytes(parts.nbytes)}")
    typer.echo(f"digest    {seen.fingerprint} (of headers, sizes, times and samples)")
    if tensors:
        for name, spec in seen.header.items():
            place = seen.layout.places[name]
            typer.echo(f"{name}  {spec.dtype} {list(spec.shape)}  {place.role.value}  depth {place.depth:.2f}")
