"""The verbs: open, merge, plan, run, verify, diff. The command line and other faces call these and nothing below."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eutectic import speed
from eutectic.about import VERSION
from eutectic.checkpoint.model_card import Parent, model_card, read_licence
from eutectic.checkpoint.source import Checkpoint
from eutectic.diagnose.difference import TensorDifference, compare_checkpoints
from eutectic.engine.events import Event, Finished, Observer, Progress, Started
from eutectic.engine.receipt import Receipt
from eutectic.engine.run import run as run_plan
from eutectic.engine.staged import staged
from eutectic.engine.staging import RECEIPT, RECIPE, finished
from eutectic.engine.verify import Verification
from eutectic.engine.verify import verify as verify_plan
from eutectic.errors import CheckpointError, RecipeError
from eutectic.layout.inspection import Inspection, inspect_checkpoint
from eutectic.methods import METHODS, get
from eutectic.methods.page import describe as describe_declared
from eutectic.methods.page import page
from eutectic.plan.build import build, default_memory
from eutectic.plan.inputs import open_input, open_inputs
from eutectic.plan.steps import Plan
from eutectic.quantities import parse_bytes
from eutectic.recipe.model import ModelEntry, Recipe, Rule
from eutectic.recipe.parse import read_recipe
from eutectic.recipe.schema import json_schema

Model = Checkpoint | Recipe | ModelEntry | Mapping[str, Any] | str | os.PathLike[str]


def open(reference: str | os.PathLike[str], *, pickles: bool = False, offline: bool = False) -> Checkpoint:
    """Opens a model, an adapter (as deltas) or `base+adapter`; reads headers only.

    Args:
        reference: a path, `org/name@revision`, or one of these `+adapter`.
        pickles: allow torch pickle files, whose tensors are read and whose code is never run.
        offline: do not download a hub model that is not cached.

    Raises:
        CheckpointError: when there is no such model, or a file breaks a rule of its format.
        MismatchError: when an adapter does not fit its base.
    """
    return open_input(os.fspath(reference), pickles=pickles, offline=offline)


def inspect(reference: str | os.PathLike[str], *, pickles: bool = False, offline: bool = False) -> Inspection:
    """Looks at a model or adapter: names, roles, blocks, shapes, types. Reads headers only.

    Raises:
        CheckpointError: as `open`.
    """
    opened = open(reference, pickles=pickles, offline=offline)
    try:
        return inspect_checkpoint(opened)
    finally:
        opened.source.close()


def describe_method(name: str) -> dict[str, Any]:
    """Returns a method's declarations as plain data.

    Raises:
        RecipeError: when there is no such method.
    """
    return describe_declared(get(name))


def explain_method(name: str) -> str:
    """Returns a page of text on a method.

    Raises:
        RecipeError: when there is no such method.
    """
    return page(get(name))


def rule(match: str | Sequence[str] | None = None, **settings: Any) -> Rule:
    """Makes a rule of a recipe: `rule("*.self_attn.*", density=0.5)`.

    Args:
        match: globs on the output tensor's name.
        settings: `role`, `blocks`, `models`, `keep` or `method` as in a recipe; anything else is set as a parameter.
    """
    own = {key: settings.pop(key) for key in ("role", "blocks", "models", "keep", "method", "set") if key in settings}
    return Rule.model_validate({"match": match, **own, "set": {**own.get("set", {}), **settings}})


def merge(
    models: Sequence[Model],
    *,
    method: Any,
    base: Checkpoint | str | os.PathLike[str] | None = None,
    rules: Sequence[Rule | Mapping[str, Any]] = (),
    seed: int = 0,
    **options: Any,
) -> Recipe:
    """Makes a recipe. Nothing is read; `plan` and `run` carry it out.

    Args:
        models: paths, references, open checkpoints, recipes (merged on the fly), or mappings with per-model values
            such as `{"model": "code/", "weight": 0.6}`.
        method: a name, `{name: {parameter: value}}`, or a list of these: transforms, then one combine.
        base: the base, for methods that work on differences from it.
        rules: exceptions, later ones win; see `rule`.
        seed: of every random draw.
        options: other keys of a recipe, such as `output={"dtype": "bfloat16"}` or `missing="base"`.

    Raises:
        RecipeError: when the recipe asks for what does not exist; everything at once.
    """
    data: dict[str, Any] = {
        "models": [_entry(model) for model in models],
        "method": method,
        "rules": [each if isinstance(each, Rule) else dict(each) for each in rules],
        "seed": seed,
        **options,
    }
    if base is not None:
        data["base"] = base.reference if isinstance(base, Checkpoint) else os.fspath(base)
    return read_recipe(data)


def _entry(model: Model) -> Any:
    if isinstance(model, Checkpoint):
        return model.reference
    if isinstance(model, Mapping) and isinstance(model.get("model"), Checkpoint):
        return {**model, "model": model["model"].reference}
    if isinstance(model, str | Mapping | Recipe | ModelEntry):
        return model
    return os.fspath(model)


def read(recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str]) -> Recipe:
    """Reads a recipe from a YAML or JSON file, or from plain data.

    Raises:
        RecipeError: with file, line, what was expected, and the nearest key; everything at once.
    """
    return recipe if isinstance(recipe, Recipe) else read_recipe(recipe)


def plan(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str],
    *,
    memory: str | int | None = None,
    threads: int | None = None,
    device: str = "cpu",
    offline: bool = False,
) -> Plan:
    """Plans a recipe: what is read, held, written, and what becomes of every tensor. Reads headers only.

    Args:
        recipe: a recipe, its data, or its file.
        memory: what the run may hold, such as `"4 GiB"`; half of the machine's by default. The interpreter and
            libraries are not counted.
        threads: workers; one a usable core by default.
        device: `cpu`, or `cuda`.
        offline: do not download.

    Raises:
        RecipeError: when the recipe asks for what cannot be.
        CheckpointError: when a model is missing or broken.
        MismatchError: when the models do not fit together; everything at once.
        OverBudget: when the budget is too small; says the least that works.
    """
    read_one = read(recipe)
    budget = parse_bytes(memory) if memory is not None else default_memory()
    return _plan(read_one, budget, threads, device, offline)


def _plan(recipe: Recipe, budget: int, threads: int | None, device: str, offline: bool) -> Plan:
    if threads is not None and threads < 1:
        raise RecipeError(f"expected at least one thread, found {threads}")
    stages = sum(1 for entry in recipe.models if entry.recipe is not None)
    share = budget // (stages + 1)
    held: list[Plan] = []

    def stage(inner: Recipe) -> Checkpoint:
        # A stage's tensors are handed on in work precision: its own output type would round a second time.
        if inner.output.dtype == "as-base":
            wide = inner.output.model_copy(update={"dtype": "float64" if inner.dtype == "float64" else "float32"})
            inner = inner.model_copy(update={"output": wide})
        planned = _plan(inner, share, threads, device, offline)
        held.append(planned)
        return staged(planned, f"recipe {len(held)}")

    base, models = open_inputs(recipe, stage, offline=offline)
    try:
        return build(
            recipe,
            base,
            models,
            version=VERSION,
            memory=budget - sum(each.peak for each in held),
            threads=threads,
            device=device,
        )
    except BaseException:
        for each in [*([base] if base else []), *models]:
            each.source.close()
        raise


def check_output(plan: Plan, out: str | os.PathLike[str]) -> None:
    """Checks that the output folder can be used, before any work.

    Raises:
        OutputError: when something else than this job's own output is there.
    """
    finished(Path(os.fspath(out)), plan.job)


def run(
    plan: Plan, out: str | os.PathLike[str], *, resume: bool = True, watch: Sequence[Observer] = ()
) -> Receipt:
    """Carries out a plan. The output folder appears whole or not at all.

    Args:
        plan: from `plan`.
        out: a new or empty folder, or this very job's finished output (then nothing is done).
        resume: go on where an earlier run of this job was stopped; False starts over.
        watch: functions called with events.

    Raises:
        OutputError: when the folder cannot be used, or the disk is full or fails; what is done stays for a resume.
        CheckpointError: when an input cannot be read or changed meanwhile, or a result is not finite.
        MismatchError: when buffers that must be equal are not.
    """
    target = Path(os.fspath(out))
    receipt = run_plan(plan, target, version=VERSION, resume=resume, watch=watch, card=_card(plan, target.name))
    speed.record(plan.reads + plan.writes, receipt.seconds)
    return receipt


def _card(plan: Plan, name: str) -> str:
    parents = [
        Parent(
            checkpoint.reference,
            checkpoint.revision,
            read_licence(checkpoint.folder) if checkpoint.folder else None,
            plan.has_base and number == 0,
        )
        for number, checkpoint in enumerate(plan.inputs)
    ]
    method = ", then ".join(step.method for step in plan.recipe.method)
    return model_card(name, method, plan.recipe.to_yaml(), parents)


def verify(
    out: str | os.PathLike[str],
    *,
    sample: int | None = 16,
    memory: str | int | None = None,
    threads: int | None = None,
    root: str | os.PathLike[str] | None = None,
) -> Verification:
    """Checks an output: makes sampled or all tensors again from its own recipe and compares every byte.

    Args:
        out: a folder that eutectic wrote.
        sample: how many tensors, spread evenly; all if None.
        memory: as in `plan`.
        threads: as in `plan`.
        root: where the recipe's relative paths start; the working directory by default.

    Raises:
        CheckpointError: when the folder has no receipt, or its tensors are not those its recipe makes.
    """
    folder = Path(os.fspath(out))
    if not (folder / RECIPE).is_file() or not (folder / RECEIPT).is_file():
        raise CheckpointError(f"{folder}: expected an output of eutectic with {RECIPE} and {RECEIPT}, found none")
    recipe = read_recipe(folder / RECIPE).model_copy(update={"root": Path(os.fspath(root)) if root else None})
    planned = plan(recipe, memory=memory, threads=threads)
    receipt = Receipt.from_dict(_json(folder / RECEIPT))
    output = open(folder)
    try:
        found = verify_plan(planned, output.source, sample)
    finally:
        output.source.close()
    before = [each["fingerprint"] for each in receipt.inputs]
    now = [planned.fingerprints[str(number)] for number in range(len(planned.inputs))]
    changed = tuple(
        checkpoint.reference for checkpoint, a, b in zip(planned.inputs, before, now, strict=False) if a != b
    )
    return Verification(found.checked, found.differing, changed)


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected a receipt in JSON, found {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a receipt in JSON, found {type(data).__name__}")
    return data


def diff(
    first: Checkpoint | str | os.PathLike[str],
    second: Checkpoint | str | os.PathLike[str],
    *,
    threads: int | None = None,
) -> list[TensorDifference]:
    """Compares two checkpoints tensor by tensor: distance, relative distance, cosine; most changed first.

    Raises:
        CheckpointError: when a model is missing or broken.
    """
    one, other = (each if isinstance(each, Checkpoint) else open(each) for each in (first, second))
    return compare_checkpoints(one, other, threads or len(os.sched_getaffinity(0)))


__all__ = [
    "METHODS",
    "Checkpoint",
    "Event",
    "Finished",
    "Inspection",
    "Plan",
    "Progress",
    "Receipt",
    "Recipe",
    "Started",
    "TensorDifference",
    "Verification",
    "check_output",
    "describe_method",
    "diff",
    "explain_method",
    "inspect",
    "json_schema",
    "merge",
    "open",
    "plan",
    "read",
    "rule",
    "run",
    "speed",
    "verify",
]
