"""Opens what a recipe names: models, adapters as deltas of the base, base+adapter as a model, recipes as stages."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from eutectic.checkpoint.cast import Cast
from eutectic.checkpoint.open import Located, is_adapter, is_adapter_file, locate, open_located, parse_reference
from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.spec import DTYPES, TORCH_NAMES

if TYPE_CHECKING:  # recipes know the methods and so load torch, which opening a model does not need
    from eutectic.recipe.model import Recipe


class Options(TypedDict):
    """How inputs are opened; see `open_input`."""

    root: Path | None
    pickles: bool
    offline: bool


def open_input(
    reference: str,
    *,
    root: Path | None = None,
    base: Checkpoint | None = None,
    pickles: bool = False,
    offline: bool = False,
) -> Checkpoint:
    """Opens a model as a recipe or a command line names it; only headers are read.

    An adapter alone opens as deltas: of `base` if it is given, else by itself. A hub model that is not cached opens
    by its headers; an adapter on the hub is downloaded, since it is small.

    Args:
        reference: a path, `org/name@revision`, or one of these `+adapter`.
        root: the folder relative paths start from, the working directory if None.
        base: the recipe's base.
        pickles: allow torch pickle files.
        offline: do not download.

    Raises:
        CheckpointError: when there is no such model, or it is broken.
        MismatchError: when an adapter does not fit its base.
        RecipeError: when the reference cannot be read.
    """
    parsed = parse_reference(_rooted(reference, root))
    located = locate(parsed, pickles=pickles, offline=offline)
    folder = located.path.is_dir() and is_adapter(located.path) and not _has_weights(located)
    alone = folder or is_adapter_file(located.path)
    if parsed.adapter is None and not alone:
        return open_located(reference, located, pickles=pickles)
    # Here, since adapters load the compiled kernels (half a second), and most models are none.
    from eutectic.adapters.lora import against, fold, open_adapter

    if parsed.adapter is not None:
        under = open_located(parsed.path, located, pickles=pickles)
        on_top = locate(parse_reference(_rooted(parsed.adapter, root)), pickles=pickles, offline=offline)
        return replace(fold(under, on_top.path), reference=reference, hub=under.hub)
    opened = open_adapter(located.path) if base is None else against(base, located.path)
    return replace(opened, reference=reference, hub=base.hub if base is not None else ())


def open_inputs(
    recipe: "Recipe", stage: Callable[["Recipe"], Checkpoint], *, offline: bool = False
) -> tuple[Checkpoint | None, tuple[Checkpoint, ...]]:
    """Opens the base and the models of a recipe; `stage` opens those that are recipes themselves.

    Where the recipe has an `input_dtype`, they are shown rounded to it.

    Raises:
        CheckpointError: when a model is missing or broken.
        MismatchError: when an adapter does not fit the base.
    """
    base = None
    opened: list[Checkpoint] = []
    try:
        if recipe.base is not None:
            base = open_input(recipe.base, root=recipe.root, pickles=recipe.pickles, offline=offline)
            base = _rounded(base, recipe)
        for entry in recipe.models:
            if entry.recipe is not None:
                inner = entry.recipe if entry.recipe.root else entry.recipe.model_copy(update={"root": recipe.root})
                opened.append(_rounded(stage(inner), recipe))
            else:
                assert entry.model is not None  # one of the two, the recipe's model checks
                how: Options = {"root": recipe.root, "pickles": recipe.pickles, "offline": offline}
                found = (
                    _open_task(entry.model, entry.task, entry.base, how)
                    if entry.task is not None
                    else open_input(entry.model, base=base, **how)
                )
                opened.append(_rounded(found, recipe))
    except BaseException:
        for each in [*([base] if base else []), *opened]:
            each.source.close()
        raise
    return base, tuple(opened)


def _open_task(reference: str, task: str, base: str | None, how: Options) -> Checkpoint:
    """Opens the model of one task of an output; `base` says where its base is when the receipt does not."""
    # Here, since tasks need the methods that made them, and most models are none.
    from eutectic.plan.tasks import base_of, open_task

    merged = open_input(reference, **how)
    try:
        found = open_input(base_of(merged) if base is None else base, **how)
        try:
            return open_task(merged, found, task, checked=base is None)
        except BaseException:
            found.source.close()
            raise
    except BaseException:
        merged.source.close()
        raise


def open_donor(recipe: "Recipe", *, offline: bool = False) -> Checkpoint | None:
    """Opens the model whose tokenizer a recipe's vocabulary policy takes, if it names one.

    Raises:
        CheckpointError: when it is missing or broken.
    """
    donor = recipe.vocabulary.donor
    if donor is None:
        return None
    return open_input(donor, root=recipe.root, pickles=recipe.pickles, offline=offline)


def _rounded(checkpoint: Checkpoint, recipe: "Recipe") -> Checkpoint:
    """The checkpoint in the recipe's `input_dtype`; as it is where nothing would be rounded."""
    if recipe.input_dtype == "stored":
        return checkpoint
    dtype = DTYPES[TORCH_NAMES[recipe.input_dtype]]
    if all(spec.dtype == dtype or not spec.dtype.mergeable for spec in checkpoint.source.header.values()):
        return checkpoint
    return replace(checkpoint, source=Cast(checkpoint.source, dtype))


def _rooted(reference: str, root: Path | None) -> str:
    """Lets relative paths start from `root`, in each part of `base+adapter`."""
    if root is None:
        return reference
    if (root / reference).exists():
        return str(root / reference)
    for at in (place for place, character in enumerate(reference) if character == "+"):
        left, right = root / reference[:at], root / reference[at + 1 :]
        if left.exists() or right.exists():
            first = str(left) if left.exists() else reference[:at]
            return f"{first}+{right if right.exists() else reference[at + 1 :]}"
    return reference


def _has_weights(located: Located) -> bool:
    """Whether an adapter's folder also holds a whole model."""
    absent = located.snapshot.absent if located.snapshot is not None else ()
    return (
        any(located.path.glob("model*.safetensors"))
        or any(located.path.glob("pytorch_model*.bin"))
        or any(name.startswith("model") for name in absent)
    )
