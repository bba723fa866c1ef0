"""`eutectic adapter`: extract, merge, fold and inspect adapters."""

import math
from pathlib import Path
from typing import Annotated

import typer

from eutectic.api import adapters, models, recipes, runs
from eutectic.cli.merge import carry_out
from eutectic.cli.options import AsJson, Memory, Offline, Quiet, Threads
from eutectic.cli.show import put
from eutectic.errors import RecipeError

Out = Annotated[Path, typer.Option("--out", "-o", help="The output folder: new or empty.")]
Rank = Annotated[int | None, typer.Option(help="The most that an update may have.")]
Error = Annotated[float | None, typer.Option(help="The share of each update's norm that may be lost, such as 0.05.")]
Dtype = Annotated[str, typer.Option(help="Type of the output: float32, bfloat16, float16, or as-base.")]
Weights = Annotated[list[float] | None, typer.Option("--weight", "-w", help="How much of each adapter, in order.")]
Names = Annotated[list[str], typer.Argument(help="Adapters.")]

adapter = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Extract, merge, fold and inspect adapters.",
    epilog="--debug shows the traceback of an error.",
)


@adapter.command()
def extract(
    model: Annotated[str, typer.Argument(help="The fine-tuned model.")],
    base: Annotated[str, typer.Option("--base", "-b", help="What it was trained from.")],
    out: Out,
    rank: Rank = None,
    error: Error = None,
    rest: Annotated[str, typer.Option(help="Changed tensors that factors cannot hold: save, drop or error.")] = "save",
    dtype: Dtype = "as-base",
    memory: Memory = None,
    threads: Threads = None,
    offline: Offline = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Turn a fine-tuned model into an adapter of its base, of a rank or within an error."""
    recipe = adapters.extract_adapter(model, base=base, rank=rank, error=error, rest=rest, dtype=dtype)
    planned = runs.plan(recipe, memory=memory, threads=threads, offline=offline)
    carry_out(planned, out, as_json=as_json, quiet=quiet)


@adapter.command()
def merge(
    inputs: Annotated[list[str], typer.Argument(help="A recipe, or the adapters themselves.")],
    out: Out,
    rank: Rank = None,
    error: Error = None,
    weights: Weights = None,
    base: Annotated[str | None, typer.Option("--base", "-b", help="Their base, where updates depend on it.")] = None,
    rest: Annotated[str, typer.Option(help="Tensors stored in full: error, save or drop.")] = "error",
    dtype: Dtype = "as-base",
    memory: Memory = None,
    threads: Threads = None,
    offline: Offline = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Merge adapters into one: their weighted sum, or what a recipe says. Without --rank or --error nothing is lost."""
    if len(inputs) == 1 and Path(inputs[0]).suffix in (".yaml", ".yml", ".json"):
        if weights or base:
            raise RecipeError("expected weights and base in the recipe, found them on the command line as well")
        read = recipes.read(inputs[0])
        asked = {key: value for key, value in {"rank": rank, "error": error}.items() if value is not None}
        output = read.output.model_copy(update={"form": "adapter"} | asked)
        recipe = read.model_copy(update={"output": output})
    else:
        recipe = adapters.merge_adapters(
            inputs, weights=weights, base=base, rank=rank, error=error, rest=rest, dtype=dtype
        )
    planned = runs.plan(recipe, memory=memory, threads=threads, offline=offline)
    carry_out(planned, out, as_json=as_json, quiet=quiet)


@adapter.command()
def fold(
    base: Annotated[str, typer.Argument(help="The base.")],
    inputs: Names,
    out: Out,
    weights: Weights = None,
    dtype: Dtype = "as-base",
    memory: Memory = None,
    threads: Threads = None,
    offline: Offline = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Add adapters to their base and write the model: touched tensors are rewritten, the others copied."""
    recipe = adapters.fold_adapters(base, inputs, weights=weights, dtype=dtype)
    planned = runs.plan(recipe, memory=memory, threads=threads, offline=offline)
    carry_out(planned, out, as_json=as_json, quiet=quiet)


@adapter.command()
def inspect(
    name: Annotated[str, typer.Argument(help="An adapter.")],
    base: Annotated[str | None, typer.Option("--base", "-b", help="Its base, where updates depend on it.")] = None,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Show rank, scale and norm of every update of an adapter."""
    under = models.open(base, offline=offline) if base is not None else None
    found = adapters.inspect_adapter(name, base=under, offline=offline)
    if as_json:
        keys = ("name", "shape", "kind", "rank", "scale", "norm")
        rows = [{key: _plain(getattr(each, key)) for key in keys} for each in found.updates]
        total = _plain(found.norm)
        put({"adapter": name, "base": found.base_name, "values": found.values, "norm": total, "updates": rows})
        return
    typer.echo(
        f"{name}: {len(found.updates)} tensors of {found.base_name or 'an unnamed base'}, {found.values:,} values"
    )
    if not math.isnan(found.norm):
        typer.echo(f"norm of all updates {found.norm:.6g}")
    typer.echo(f"{'rank':>5} {'scale':>8} {'norm':>12}  tensor")
    for each in found.updates:
        size = "" if math.isnan(each.norm) else f"{each.norm:.5g}"
        kind = "" if each.kind == "factors" else f" ({each.kind})"
        typer.echo(f"{each.rank or '':>5} {each.scale:>8.4g} {size:>12}  {each.name} {list(each.shape)}{kind}")


def _plain(value: object) -> object:
    """JSON has no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value
