"""Live models with experts beside their linear maps, weighed anew for every token."""

import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from eutectic.adapters.adapter import Adapter
from eutectic.adapters.edits import Edit
from eutectic.adapters.lora import onto
from eutectic.adapters.stored import read_factors, read_finite
from eutectic.checkpoint.spec import DTYPES, TORCH_NAMES, TensorSpec
from eutectic.errors import CheckpointError, MismatchError, RecipeError
from eutectic.numerics.tensors import torch
from eutectic.routed.smile import Smile, Update


@dataclass(frozen=True)
class Routed:
    """What became of a model.

    Attributes:
        experts: the adapters, in the order of the experts.
        maps: its linear maps that have experts now, by name.
        left: tensors that an adapter changes and that stay the base's, by name: embeddings, norms, convolutions, heads.
    """

    experts: tuple[str, ...]
    maps: tuple[str, ...]
    left: tuple[str, ...]


def smile(
    model: nn.Module,
    experts: Sequence[str | os.PathLike[str]],
    *,
    rank: int | None = None,
    gate: int = 16,
    top: int = 1,
) -> Routed:
    """Puts experts beside the linear maps of a live model: SMILE. It needs no data and no training.

    Experts are LoRA adapters of the model; of a full fine-tune, `eutectic adapter extract` makes one. Each linear map
    that an adapter changes is replaced, in the model, by one that weighs the adapters' updates for every token.

    Args:
        model: a torch model, such as transformers' of the base; it is changed.
        experts: folders of adapters that were trained on it.
        rank: the most directions of an update that are applied; all if None.
        gate: how many leading directions decide which experts a token goes to.
        top: how many experts serve a token.

    Raises:
        CheckpointError: when an adapter is broken, or no LoRA.
        MismatchError: when one does not fit the model, or none changes a linear map of it.
        RecipeError: when there is no expert, or a number is out of bounds.
    """
    if not experts or gate < 1 or not 1 <= top <= len(experts) or (rank is not None and rank < 1):
        raise RecipeError(
            f"expected experts, rank and gate from 1, and top from 1 to their number; found {len(experts)} experts, "
            f"rank {rank}, gate {gate}, top {top}"
        )
    maps = {name: module for name, module in model.named_modules() if _is_linear(module)}
    if any(isinstance(module, Smile) for module in model.modules()):
        raise RecipeError("the model has experts already; load it anew")
    header = {
        name: TensorSpec(name, tuple(tensor.shape), DTYPES[TORCH_NAMES[str(tensor.dtype).removeprefix("torch.")]])
        for name, tensor in model.named_parameters()
        if str(tensor.dtype).removeprefix("torch.") in TORCH_NAMES
    }
    found: dict[str, list[Update]] = {}
    left: dict[str, None] = {}
    with ExitStack() as opened:
        for at, path in enumerate(experts):
            adapter = onto(header, Path(os.fspath(path)), "the model")
            opened.enter_context(closing(adapter.file))
            for name, edit in adapter.edits.items():
                module, _, leaf = name.rpartition(".")
                change = _change(adapter, edit, maps[module], leaf) if module in maps else {}
                if change:
                    parts = found.setdefault(module, [Update()] * len(experts))
                    parts[at] = replace(parts[at], **change)
                else:
                    left[name] = None
    named = [name for name in maps if any(update.factors is not None for update in found.get(name, ()))]
    left |= dict.fromkeys(f"{name}.bias" for name in found if name not in named)
    if not named:
        raise MismatchError("the adapters change the weight of no linear map of the model")
    for name in named:
        parent, _, leaf = name.rpartition(".")
        weight = maps[name].get_parameter("weight")
        wrapped = Smile(maps[name], found[name], rank=rank, gate=gate, top=top, like=weight.detach())
        setattr(model.get_submodule(parent), leaf, wrapped)
    return Routed(tuple(os.fspath(path) for path in experts), tuple(named), tuple(left))


def _is_linear(module: nn.Module) -> bool:
    """Whether it is a linear map; transformers' Conv1D is one, whose weight is stored (in, out)."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _change(adapter: Adapter, edit: Edit, module: nn.Module, leaf: str) -> dict[str, Any]:
    """What an edit changes of a linear map, as fields of `Update`; none where it cannot be weighed by token."""
    if edit.magnitude is not None or edit.turn is not None:
        raise CheckpointError(
            f"{adapter.file.name}: '{edit.name}' is changed by DoRA or OFT, which depend on its values; fold the "
            "adapter into its base (eutectic adapter fold), and extract a plain one (eutectic adapter extract)"
        )
    if leaf == "weight" and edit.pair is not None and edit.full is None:
        return {"factors": read_factors(adapter.file, edit.pair, double=True)}
    if leaf == "bias" and edit.shift is not None:
        key, scale = edit.shift
        return {"shift": torch.from_numpy(read_finite(adapter.file, key)).double().flatten() * scale}
    if leaf == "bias" and edit.full is not None:
        own = module.get_parameter("bias").detach().double().cpu()
        return {"shift": torch.from_numpy(read_finite(adapter.file, edit.full)).double() - own}
    return {}


__all__ = ["Routed", "smile"]
