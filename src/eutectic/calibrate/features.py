"""The feature of a sample: what a head stands on, as the kind of model gives it."""

from typing import Any

from eutectic.calibrate.batches import Batch
from eutectic.calibrate.passes import forward, masks_of
from eutectic.errors import CalibrationError
from eutectic.numerics.tensors import Tensor, torch


def states_of(module: "torch.nn.Module", batch: Batch) -> Tensor:
    """Runs a module on a batch and returns what a head would stand on.

    That is the last hidden state, (samples, tokens, width) or (samples, width, height, width), or what models of texts
    and images compare, (samples, width).

    Raises:
        CalibrationError: when the output has none of these.
    """
    return _states(_run(module, batch))


def feature_of(module: "torch.nn.Module", batch: Batch, pool: str) -> Tensor:
    """Runs a module on a batch and returns a feature a sample, (samples, width).

    Of models of texts and images that are shown one kind alone it is what they compare: the projected embedding. Else
    it is the projected embedding that the output has, or the last hidden state, pooled.

    Args:
        module: with its weights.
        batch: the samples.
        pool: the `mean` over tokens that count, that of the `first` or the `last` of them, or the model's own `pooler`.

    Raises:
        CalibrationError: when the output has none of these.
    """
    out = _run(module, batch)
    if pool == "pooler" and not isinstance(out, torch.Tensor):
        return named(out, "pooler_output")
    return pooled(_states(out), masks_of(module, batch, include=False), pool)


def _run(module: "torch.nn.Module", batch: Batch) -> Any:
    """What a module returns; of a model of texts and images that is shown one kind alone, what it compares."""
    alone = {"pixel_values": "get_image_features", "input_ids": "get_text_features"}
    shown = [name for name in alone if name in batch.inputs]
    own = getattr(module, alone[shown[0]], None) if len(shown) == 1 else None
    if own is None:
        return forward(module, batch)
    taken = {name: value for name, value in batch.inputs.items() if name in (shown[0], "attention_mask")}
    out = own(**taken)
    return out if isinstance(out, torch.Tensor) else named(out, "pooler_output")


def _states(out: Any) -> Tensor:
    if isinstance(out, torch.Tensor):
        return out
    # A family without an inner model (T5) gives its last hidden state as logits, once its head is taken away.
    return named(out, "image_embeds", "text_embeds", "last_hidden_state", "logits")


def named(out: Any, *names: str) -> Tensor:
    """Returns the first tensor of a model's output that has one of these names.

    Raises:
        CalibrationError: when there is none.
    """
    found = next((each for name in names if isinstance(each := getattr(out, name, None), torch.Tensor)), None)
    if found is None:
        raise CalibrationError(
            f"expected a model whose output has {' or '.join(names)}, found {type(out).__name__}; choose another pool "
            "under calibration.head"
        )
    return found


def pooled(hidden: Tensor, masks: tuple[Tensor, ...], pool: str) -> Tensor:
    """Returns a feature a sample of hidden states: (samples, tokens, width), or (samples, width, height, width).

    Of `masks` that one counts which has the states' shape: a decoder's states have another than an encoder's.
    """
    if hidden.dim() == 4:
        return hidden.flatten(2).mean(-1)
    if hidden.dim() == 2:
        return hidden
    mask = mask_for(hidden, masks)
    if pool == "first":
        return hidden[:, 0]
    if pool == "last":
        return hidden[torch.arange(len(hidden)), mask.long().cumsum(1).argmax(1)]
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def mask_for(hidden: Tensor, masks: tuple[Tensor, ...]) -> Tensor:
    """Returns which tokens of hidden states or logits count: by the mask of their shape, else all."""
    every = torch.ones(hidden.shape[:2], dtype=torch.bool)
    return next((mask for mask in reversed(masks) if mask.shape == hidden.shape[:2]), every)
