"""What is solved from anchors: the blocks of a module, each as a function of its tensors and of inputs alone.

A block takes more than hidden states: masks, rotary angles, another stack's output. What its model hands it is taken
from one forward pass of two equal samples, so nothing here knows an architecture.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from eutectic.calibrate.batches import Batch
from eutectic.calibrate.lockstep import Call, Lockstep
from eutectic.calibrate.passes import forward
from eutectic.calibrate.skeleton import Fitted, Skeleton
from eutectic.errors import CalibrationError
from eutectic.numerics.tensors import Tensor, torch

#: Of a block, the part that `unit: mlp` takes.
_FEED_FORWARD = "mlp"


@dataclass
class Unit:
    """A block, or its feed-forward part, that is solved by itself.

    Attributes:
        name: of the block.
        path: of the module that runs.
        module: it.
        shape: of one anchor.
        given: what its model calls it with beside hidden states.
        copies: samples in `given`, along the first axis of what has them.
    """

    name: str
    path: str
    module: Any
    shape: tuple[int, ...] = ()
    given: tuple[tuple[Any, ...], Mapping[str, Any]] = field(default_factory=lambda: ((), {}))
    copies: int = 0

    def __call__(self, tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Runs it with these tensors, by their names within it, on inputs (n, *shape)."""
        args, kwargs = (self._repeated(each, len(inputs)) for each in self.given)
        if "hidden_states" in kwargs:
            kwargs = {**kwargs, "hidden_states": inputs}
        else:
            args = (inputs, *args[1:])
        found = torch.func.functional_call(self.module, dict(tensors), args, kwargs)
        while not isinstance(found, torch.Tensor):
            found = found[0]
        return found

    def _repeated(self, held: Any, n: int) -> Any:
        """What was made for a few equal samples, for n."""
        if isinstance(held, torch.Tensor):
            alike = held.dim() > 0 and held.shape[0] == self.copies
            return held[:1].expand(n, *held.shape[1:]) if alike else held
        if isinstance(held, tuple | list):
            return type(held)(self._repeated(each, n) for each in held)
        if isinstance(held, dict):
            return {key: self._repeated(each, n) for key, each in held.items()}
        return held

    def read(self, skeleton: Skeleton, fitted: Fitted) -> dict[str, Tensor]:
        """Reads its tensors from a checkpoint, by their names within it."""
        stored = names_in(skeleton, fitted, self.path)
        return {own: fitted.weights.read(name) for own, name in stored.items()}


def names_in(skeleton: Skeleton, fitted: Fitted, path: str) -> dict[str, str]:
    """Returns the checkpoint's names of a part's tensors, by their names within it."""
    found = {}
    for stored, names in skeleton.parameters(fitted).items():
        for name in names:
            if name.startswith(f"{path}."):
                found[name.removeprefix(f"{path}.")] = stored
                break
    return found


def units_of(skeleton: Skeleton, kind: str) -> list[Unit]:
    """Returns the units of a module; nothing is run, and what is not a feed-forward part has no shape yet.

    Raises:
        CalibrationError: when there are none.
    """
    if not skeleton.blocks:
        raise CalibrationError(f"{skeleton.reference}: expected a model of numbered blocks, found none")
    if kind == "block":
        return [Unit(name, name, block) for name, block in skeleton.blocks.items()]
    found = []
    for name, block in skeleton.blocks.items():
        inner = getattr(block, _FEED_FORWARD, None)
        wide = next((p.shape[1] for p in inner.parameters() if p.dim() == 2), 0) if inner is not None else 0
        if not wide:
            raise CalibrationError(f"{name}: expected a feed-forward part called mlp, found none; take unit: block")
        found.append(Unit(name, f"{name}.{_FEED_FORWARD}", inner, (wide,)))
    return found


def complete(skeleton: Skeleton, fitted: Fitted, units: list[Unit], tokens: int) -> None:
    """Learns what blocks are called with and the shape of an anchor, by one pass of the base, block by block.

    Raises:
        CalibrationError: when a block is not called with hidden states.
    """
    by_name = {unit.name: unit for unit in units}
    copies = 3 if tokens == 2 else 2  # so that no other axis is taken for that of samples
    lockstep = Lockstep(skeleton.blocks)

    def visit(name: str, calls: list[Call]) -> None:
        skeleton.load(name, fitted)
        for call in calls:
            unit = by_name[name]
            if not unit.shape:
                hidden = call.kwargs.get("hidden_states", call.args[0] if call.args else None)
                if not isinstance(hidden, torch.Tensor):
                    raise CalibrationError(f"{name}: expected a block that is called with hidden states")
                unit.shape, unit.copies = tuple(hidden.shape[1:]), copies
                # A block is not given itself what it is asked for, and holds on to no activations.
                unit.given = (
                    (None, *call.args[1:]) if call.args else (),
                    {key: (None if key == "hidden_states" else value) for key, value in call.kwargs.items()},
                )
            lockstep.answer(call, skeleton.blocks[name](*call.args, **call.kwargs))
        skeleton.free(name)

    run: Callable[[], object] = partial(forward, skeleton.module, _example(skeleton.module, tokens, copies))
    skeleton.load(None, fitted)
    try:
        with torch.no_grad():
            lockstep.run([run], visit)
    finally:
        skeleton.free(None)
    missed = [unit.name for unit in units if not unit.shape]
    if missed:
        raise CalibrationError(f"{missed[0]}: expected a block that its model runs, found none")


def _example(module: Any, tokens: int, copies: int) -> Batch:
    """A few equal samples of what a model takes."""
    accepted, config = inspect.signature(module.forward).parameters, module.config
    inputs: dict[str, Tensor] = {}
    if "input_ids" in accepted:
        inputs["input_ids"] = torch.full((copies, tokens), 3)
    if "pixel_values" in accepted:
        vision = getattr(config, "vision_config", config)
        size = getattr(vision, "image_size", 224)
        height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
        inputs["pixel_values"] = torch.zeros(copies, getattr(vision, "num_channels", 3), height, width)
    return Batch(inputs, (), None, copies)
