"""Which files an output has beside its weights, and what they say: config, tokenizer, chat template, licences."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eutectic.checkpoint.config_changes import ConfigChanges
from eutectic.checkpoint.sidecars import Sidecar, plan_sidecars
from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.spec import TORCH_NAMES
from eutectic.errors import CheckpointError, RecipeError, nearest
from eutectic.layout.layout import Place
from eutectic.layout.match import Report
from eutectic.plan.fates import Decider, Fates
from eutectic.plan.vocabulary import Bridge
from eutectic.recipe.model import BASE, Recipe
from eutectic.tokens.templates import TEMPLATE_FILES, TEMPLATES, is_template, most_common, read_template
from eutectic.tokens.tokenizer import STALE

Named = Mapping[str, Checkpoint]


def output_files(
    recipe: Recipe,
    base: Checkpoint | None,
    models: Sequence[Checkpoint],
    report: Report,
    decider: Decider,
    fates: Fates,
    bridged: Bridge | None,
) -> tuple[Sidecar, ...]:
    """Lists the output's files beside its weights, those that are left out too.

    Raises:
        CheckpointError: when a file cannot be read.
        MismatchError: when the config cannot say what the output is.
        RecipeError: when a named model has no such file.
    """
    donor = base or models[0]
    named = dict(zip(recipe.names, models, strict=True)) | ({BASE: base} if base else {})
    chosen = bridged.owner if bridged is not None else _tokenizer(recipe, named)
    made: dict[str, bytes] = dict(bridged.files) if bridged is not None else {}
    stale = STALE if made else ()
    template = _template(recipe, named)
    if template is not None:
        made |= _with_template(template, chosen or donor, made)
        stale = (*stale, *TEMPLATE_FILES)
    parents = {model.reference: model.folder for model in named.values() if model.folder is not None}
    changes = _changes(recipe, report, decider, fates, bridged)
    return plan_sidecars(donor.folder, chosen.folder if chosen else None, changes, parents, made, stale)


def _find(recipe: Recipe, named: Named, reference: str) -> Checkpoint | None:
    place = recipe.find(reference)
    return named.get(reference) or (named[recipe.names[place]] if place is not None else None)


def _tokenizer(recipe: Recipe, named: Named) -> Checkpoint | None:
    """Returns the model whose tokenizer is copied, when the recipe names one."""
    tokenizer = recipe.output.tokenizer
    if tokenizer is None:
        return None
    chosen = _find(recipe, named, tokenizer)
    if chosen is None or chosen.folder is None:
        raise RecipeError(f"output.tokenizer: expected base or a model with a folder, found {tokenizer}")
    return chosen


def _template(recipe: Recipe, named: Named) -> str | None:
    """Returns the chat template that the recipe chooses; None when it leaves the tokenizer's."""
    said = recipe.output.chat_template
    if said is None or is_template(said):
        return said
    if said == "auto":
        return most_common([read_template(each.folder) for each in named.values()])
    model = _find(recipe, named, said)
    if model is None and said in TEMPLATES:
        return TEMPLATES[said]
    if model is None:
        known = ["auto", *TEMPLATES, *named]
        raise RecipeError(
            f"output.chat_template: expected {', '.join(known)} or Jinja text, found {said!r}{nearest(said, known)}"
        )
    found = read_template(model.folder)
    if found is None:
        raise RecipeError(f"output.chat_template: {model.reference} has no chat template; name another model")
    return found


def _with_template(template: str, owner: Checkpoint, made: Mapping[str, bytes]) -> dict[str, bytes]:
    """Returns the template's file, and tokenizer_config.json without one of its own."""
    files = {"chat_template.jinja": template.encode()}
    name = "tokenizer_config.json"
    path = owner.folder / name if owner.folder is not None else Path(name)
    try:
        text = made[name].decode() if name in made else path.read_text(encoding="utf-8") if path.is_file() else "{}"
        config: Any = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, found {error}; replace it") from error
    if isinstance(config, dict) and config.pop("chat_template", None) is not None:
        files[name] = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    return files


def _changes(recipe: Recipe, report: Report, decider: Decider, fates: Fates, bridged: Bridge | None) -> ConfigChanges:
    """What config.json must say differently from the donor's."""
    blocks: Mapping[str, Sequence[int]] = {}
    if decider.stack is not None:
        total = decider.resolver.blocks or 0
        role = next(iter(report.matches.values())).place.role
        places = [Place(f"{decider.stack}.{b}.", role, decider.stack, b, 0.0) for b in range(total)]
        blocks = {decider.stack: [decider.resolver.inputs_for(place)[0].block or 0 for place in places]}
    dtype: str | None = None if recipe.output.dtype == "as-base" else recipe.output.dtype
    if dtype == "promote":
        found = {site.spec.dtype.name for site in fates.merged}
        dtype = next((torch for torch, name in TORCH_NAMES.items() if found == {name}), None)
    if bridged is not None:
        moved = any(old != new for old, new in bridged.numbers.items())
        return ConfigChanges(
            dtype, blocks, bridged.rows, bridged.numbers if moved or bridged.named else {}, bridged.named
        )
    rows = None
    if recipe.vocabulary.rows != "error":
        axes = report.layout.vocabulary
        sizes = {site.spec.shape[axes[site.spec.name]] for site in fates.merged if site.spec.name in axes}
        rows = sizes.pop() if len(sizes) == 1 else None
    return ConfigChanges(dtype, blocks, rows)
