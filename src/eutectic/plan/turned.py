"""An adapter of rotations as output: which modules it turns, from which adapters' generators. Headers only.

A method that says how it merges generators (`Method.generators`) makes an OFT adapter of OFT adapters, module by
module. All must mean the same by what they store: exact rotations or one and the same series, blocks of one size,
shared or not. Of an embedding PEFT stores a copy beside its rotations; it is the base's, or was changed, and what
changed no rotation holds.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eutectic.adapters.edits import Edit
from eutectic.adapters.names import PREFIX
from eutectic.adapters.oft import OftConfig
from eutectic.adapters.sources import DeltaSource
from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.spec import DTYPES, TORCH_NAMES, TensorSpec
from eutectic.errors import MismatchError, RecipeError
from eutectic.layout.layout import Layout
from eutectic.plan.steps import Dropped
from eutectic.recipe.chain import bind
from eutectic.recipe.model import BASE, Recipe
from eutectic.recipe.resolve import ResolvedStep, Resolver


@dataclass(frozen=True)
class TurnedSite:
    """A module that the output adapter turns.

    Attributes:
        name: its weight, as the base calls it.
        spec: the output's tensor, (blocks, b (b - 1) / 2).
        edits: each model's, in the recipe's order; None where it leaves the module as it is.
        step: the method, with a value of each per-model parameter for every model.
        keep: of the one model that it is taken from; None where it is merged.
    """

    name: str
    spec: TensorSpec
    edits: tuple[Edit | None, ...]
    step: ResolvedStep
    keep: int | None

    @property
    def nbytes(self) -> int:
        """Bytes of making it: every model's generators as numbers and as matrices, in float64, twice over."""
        size = max(edit.turn.size for edit in self.edits if edit is not None and edit.turn is not None)
        return 16 * (len(self.edits) + 1) * (self.spec.numel + self.spec.shape[0] * size * size)


def joins_generators(recipe: Recipe, models: Sequence[Checkpoint]) -> bool:
    """Whether a recipe for an adapter merges adapters of rotations by a method that merges generators."""
    chains = [recipe.method, *(rule.method for rule in recipe.rules if rule.method is not None)]
    alone = all(len(chain) == 1 and bind(chain)[0].method.generators is not None for chain in chains)
    return alone and bool(models) and all(_config(model) is not None for model in models)


def _config(model: Checkpoint) -> OftConfig | None:
    source = model.source
    config = source.adapter.config if isinstance(source, DeltaSource) else None
    return config if isinstance(config, OftConfig) else None


def turned_sites(
    recipe: Recipe, models: Sequence[Checkpoint], layout: Layout
) -> tuple[list[TurnedSite], tuple[Dropped, ...]]:
    """Lists the modules, with the chain at each, in the order they are met; and what the recipe leaves out.

    Raises:
        MismatchError: when the adapters' rotations are of different kinds, or one holds more than rotations.
        RecipeError: when a value is missing or out of bounds, or comes from a source; when the output is to be cut.
    """
    if recipe.output.rank is not None or recipe.output.error is not None:
        raise RecipeError(
            "output: rank and error cut factors, and these adapters are merged to rotations, which have none; leave "
            "them out"
        )
    _check_alike(models)
    found: dict[str, list[Edit | None]] = {}
    dropped: dict[str, Dropped] = {}
    shown: dict[str, tuple[str, TensorSpec]] = {}
    for at, model in enumerate(models):
        assert isinstance(model.source, DeltaSource)
        adapter = model.source.adapter
        for name, edit in adapter.edits.items():
            if edit.full is not None and recipe.output.rest == "drop":
                dropped[edit.full] = Dropped(edit.full, "rest: drop (it is no rotation)")
            elif edit.turn is None:
                raise MismatchError(
                    f"{model.reference}: stores '{name}' in full beside its rotations, which an adapter of rotations "
                    "cannot merge; merge to a model (output: {form: model}), or leave it out (output: rest: drop)"
                )
            if edit.turn is None:
                continue
            own = adapter.file.header[edit.turn.key]
            first = shown.setdefault(name, (edit.module, own))[1]
            if own.shape != first.shape or edit.turn.embedding != _embedding(found.get(name, [edit])):
                raise MismatchError(
                    f"{name}: expected blocks as {models[0].reference} has them, {first.shape}, found {own.shape} in "
                    f"{model.reference}; only equal blocks can be merged"
                )
            kept = replace(edit, full=None) if recipe.output.rest == "drop" else edit
            found.setdefault(name, [None] * len(models))[at] = kept
    resolver, wanted, sites = Resolver(recipe), recipe.output.dtype, []
    for name, edits in found.items():
        place = layout.places[name]
        keep = resolver.keep_for(place)
        one = None if keep in (None, BASE) else recipe.names.index(str(keep))
        if keep == BASE or (one is not None and edits[one] is None):
            continue
        step = resolver.steps_for(place)[0]
        if step.coefficients:
            raise RecipeError(f"{name}: weights of rotations are numbers, found a source; write them out")
        module, spec = shown[name]
        dtype = DTYPES[TORCH_NAMES[wanted]] if wanted in TORCH_NAMES else spec.dtype
        leaf = "oft_embedding_R" if _embedding(edits) else "oft_R"
        out = replace(spec, name=f"{PREFIX}{module}.{leaf}.weight", dtype=dtype)
        sites.append(TurnedSite(name, out, tuple(edits), step, one))
    return sites, tuple(dropped.values())


def _embedding(edits: Sequence[Edit | None]) -> bool:
    return any(edit.turn.embedding for edit in edits if edit is not None and edit.turn is not None)


def _check_alike(models: Sequence[Checkpoint]) -> None:
    kinds: dict[str, str] = {}
    for model in models:
        config = _config(model)
        assert config is not None
        sizes = {key: config.raw.get(key) or 0 for key in ("r", "oft_block_size")}
        kind = {"series of terms": config.terms, "shared blocks": config.shared, **sizes}
        kinds.setdefault(json.dumps(kind), model.reference)
    if len(kinds) > 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        raise MismatchError(
            f"expected adapters whose rotations are made in one way, found {one} in {first} and {other} in {second}; "
            "merge to a model (output: {form: model})"
        )


def turned_config(recipe: Recipe, models: Sequence[Checkpoint], sites: Sequence[TurnedSite]) -> bytes:
    """Returns the configuration of the merged adapter: the first one's, without what training alone read."""
    raw: Mapping[str, Any] = models[0].config
    kept = ("peft_type", "peft_version", "task_type", "base_model_name_or_path", "revision", "r", "oft_block_size",
            "block_share", "use_cayley_neumann", "num_cayley_neumann_terms")  # fmt: skip
    modules = sorted(site.spec.name.removeprefix(PREFIX).rpartition(".oft_")[0] for site in sites)
    config = {key: raw[key] for key in kept if key in raw}
    config |= {"inference_mode": True, "coft": False, "bias": "none", "fan_in_fan_out": False}
    config |= {"target_modules": modules, "modules_to_save": None}
    if recipe.base:
        config["base_model_name_or_path"] = recipe.base
    return (json.dumps(config, indent=2) + "\n").encode()
