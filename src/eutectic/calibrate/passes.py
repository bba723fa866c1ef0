"""Forward passes that feed statistics of inputs: a model on its own data, or all models behind the merged blocks."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from eutectic.calibrate.batches import Batch
from eutectic.calibrate.lockstep import Call, Lockstep
from eutectic.calibrate.observe import Collector
from eutectic.calibrate.skeleton import Fitted, Skeleton
from eutectic.calibrate.spill import Spill
from eutectic.errors import CalibrationError
from eutectic.numerics.tensors import Tensor, torch

T = TypeVar("T")
#: Hears that a part is done, and takes its results from the collector.
Done = Callable[[str | None, Collector], None]


def forward(module: "torch.nn.Module", batch: Batch) -> Any:
    """Runs a module on a batch, and returns what it returns."""
    inputs = dict(batch.inputs)
    first = inputs.pop("", None)
    config = getattr(module, "config", None)
    if getattr(config, "is_encoder_decoder", False) and "input_ids" in inputs and "decoder_input_ids" not in inputs:
        inputs |= _decoder_inputs(config, inputs)
    accepted = inspect.signature(module.forward).parameters
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in accepted.values()):
        inputs = {name: value for name, value in inputs.items() if name in accepted}
    return module(**inputs) if first is None else module(first, **inputs)


def _decoder_inputs(config: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text itself, shifted by the start token: what a decoder is shown when the data says nothing else.

    One padded token is added, so that masks of both sides can be told apart by their shape.
    """
    # (samples, tokens) -> (samples, tokens + 2)
    ids = inputs["input_ids"]
    start = getattr(config, "decoder_start_token_id", None)
    first = torch.full_like(ids[:, :1], start if isinstance(start, int) else 0)
    mask = inputs.get("attention_mask", torch.ones_like(ids))
    none = torch.zeros_like(mask[:, :1])
    return {
        "decoder_input_ids": torch.cat([first, ids, first], 1),
        "decoder_attention_mask": torch.cat([torch.ones_like(none), mask, none], 1),
    }


def masks_of(module: "torch.nn.Module", batch: Batch, include: bool) -> tuple[Tensor, ...]:
    """The masks of what counts in a batch, those of decoder inputs that `forward` makes included."""
    if include:
        return ()
    config = getattr(module, "config", None)
    masks = list(batch.masks)
    if getattr(config, "is_encoder_decoder", False) and "input_ids" in batch.inputs:
        made = "decoder_input_ids" not in batch.inputs
        masks += [_decoder_inputs(config, batch.inputs)["decoder_attention_mask"].bool()] if made else []
    return tuple(masks)


def check_tokens(skeleton: Skeleton, batches: Sequence[Batch], reference: str) -> None:
    """Checks that every token has an embedding.

    Raises:
        CalibrationError: when the tokenizer has more tokens than the model.
    """
    weight = _embeddings(skeleton.module)
    ids = [batch.inputs["input_ids"] for batch in batches if "input_ids" in batch.inputs]
    if weight is None or not ids or weight.dim() != 2:
        return
    largest = max(int(each.max()) for each in ids)
    if largest >= weight.shape[0]:
        raise CalibrationError(
            f"{reference}: expected tokens below {weight.shape[0]}, as the model has so many embeddings; found "
            f"{largest}; its tokenizer belongs to another model"
        )


def _embeddings(module: Any) -> Any:
    """The embeddings of words, of a model of texts and images those of its text part; None without any."""
    text = getattr(module, "text_model", module)
    try:
        return getattr(text.get_input_embeddings(), "weight", None)
    except (AttributeError, NotImplementedError):
        return None


def pass_through(
    skeleton: Skeleton,
    fitted: Fitted,
    batches: Sequence[Batch],
    collector: Collector,
    done: Done,
    *,
    finished: Callable[[str | None], bool] = lambda _: False,
    include_padding: bool = False,
    spill: Path | None = None,
) -> None:
    """Passes batches through a model, one block of it in memory at a time, and shows a collector what reaches layers.

    Args:
        skeleton: the module.
        fitted: its weights.
        batches: what is shown, in order.
        collector: takes the statistics.
        done: called when all batches have passed a block (or, with None, the rest of the model).
        finished: whether a part's results are there already: it is run and not watched.
        include_padding: padded tokens count.
        spill: put waiting activations on disk, in this folder; in memory if None.
    """
    module = skeleton.module
    masks = [masks_of(module, batch, include_padding) for batch in batches]
    with ExitStack() as stack:
        skeleton.load(None, fitted)
        stack.callback(skeleton.free, None)
        aside = stack.enter_context(_spill(skeleton, spill)) if spill is not None else None
        lockstep = Lockstep(skeleton.blocks, aside)
        watched = [] if finished(None) else collector.attach(module, "", skip=skeleton.blocks.values())
        stack.callback(_detach, watched)

        def visit(name: str, calls: list[Call]) -> None:
            block = skeleton.blocks[name]
            skeleton.load(name, fitted)
            handles = [] if finished(name) else collector.attach(block, name)
            try:
                for call in calls:
                    lockstep.bring(call)
                    collector.begin(masks[call.batch])
                    value = block(*call.args, **call.kwargs)
                    collector.begin(masks[call.batch])  # what the model does until its next block is this batch's too
                    lockstep.answer(call, value)
            finally:
                _detach(handles)
                skeleton.free(name)
            if not finished(name):
                done(name, collector)

        def start(batch: Batch, own: tuple[Tensor, ...]) -> None:
            collector.begin(own)
            forward(module, batch)

        with torch.no_grad():
            lockstep.run([partial(start, *each) for each in zip(batches, masks, strict=True)], visit)
        if not finished(None):
            done(None, collector)


def run_blocks(
    skeleton: Skeleton,
    fitted: Fitted,
    batches: Sequence[Batch],
    run: Callable[[Batch], T],
    *,
    tell: Callable[[str], None] = lambda _: None,
    spill: Path | None = None,
) -> list[T]:
    """Returns what `run` makes of each batch, with one block of the model in memory at a time.

    Args:
        skeleton: the module.
        fitted: its weights.
        batches: what is shown, in order.
        run: runs the module on a batch.
        tell: hears of each block that all batches have passed.
        spill: put waiting activations on disk, in this folder; in memory if None.
    """
    found: dict[int, T] = {}
    with ExitStack() as stack:
        skeleton.load(None, fitted)
        stack.callback(skeleton.free, None)
        aside = stack.enter_context(_spill(skeleton, spill)) if spill is not None else None
        lockstep = Lockstep(skeleton.blocks, aside)

        def visit(name: str, calls: list[Call]) -> None:
            skeleton.load(name, fitted)
            for call in calls:
                lockstep.bring(call)
                lockstep.answer(call, skeleton.blocks[name](*call.args, **call.kwargs))
            skeleton.free(name)
            tell(name)

        def start(at: int, batch: Batch) -> None:
            found[at] = run(batch)

        with torch.no_grad():
            lockstep.run([partial(start, *each) for each in enumerate(batches)], visit)
    return [found[at] for at in range(len(batches))]


def pass_merged(
    skeleton: Skeleton,
    merged: Fitted,
    experts: Sequence[Fitted],
    batches: Sequence[Sequence[Batch]],
    collectors: Sequence[Collector],
    done: Callable[[str | None, int, Collector], None],
    *,
    include_padding: bool = False,
    spill: Path | None = None,
) -> None:
    """Passes each model's batches through the merged blocks, and at each block first through the model's own.

    Only what the own block is given and does is shown to the model's collector. The merged weights of a block are read
    after `done` was called for it with every model.

    Source: RegMean++, arXiv:2508.03121, algorithm 1.
    """
    module = skeleton.module
    flat = [(model, batch) for model, own in enumerate(batches) for batch in own]
    masks = [masks_of(module, batch, include_padding) for _, batch in flat]
    with ExitStack() as stack:
        skeleton.load(None, merged)
        stack.callback(skeleton.free, None)
        aside = stack.enter_context(_spill(skeleton, spill)) if spill is not None else None
        lockstep = Lockstep(skeleton.blocks, aside)

        def visit(name: str, calls: list[Call]) -> None:
            block = skeleton.blocks[name]
            for model, expert in enumerate(experts):
                skeleton.load(name, expert)
                handles = collectors[model].attach(block, name)
                try:
                    for call in (each for each in calls if flat[each.batch][0] == model):
                        lockstep.bring(call)
                        collectors[model].begin(masks[call.batch])
                        block(*call.args, **call.kwargs)
                        lockstep.put(call)
                finally:
                    _detach(handles)
                    skeleton.free(name)
                done(name, model, collectors[model])
            skeleton.load(name, merged)
            for call in calls:
                lockstep.bring(call)
                lockstep.answer(call, block(*call.args, **call.kwargs))
            skeleton.free(name)

        with torch.no_grad():
            lockstep.run([partial(forward, module, batch) for _, batch in flat], visit)
        for model, collector in enumerate(collectors):
            done(None, model, collector)


def _spill(skeleton: Skeleton, folder: Path) -> Spill:
    return Spill([*skeleton.module.parameters(), *skeleton.module.buffers()], folder)


def _detach(handles: Sequence[Any]) -> None:
    for handle in handles:
        handle.remove()
