"""A transformers module without weights, into which those of any source are loaded part by part and let go again.

The module is built from `config.json` alone, its parameters without memory; buffers that no checkpoint holds (rotary
frequencies) are real from the start. Whatever names a checkpoint uses are matched to parameters: as they are, with or
without the architecture's prefix, and tied parameters by any of their names.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from eutectic.calibrate.extras import load
from eutectic.checkpoint.source import Checkpoint
from eutectic.errors import CalibrationError
from eutectic.numerics.tensors import Tensor, torch

#: Stored types that torch reads as they are.
_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}
_TYPES |= {"I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}


class Weights:
    """The whole weights of a model as a recipe names it: of an adapter, the base's plus its differences.

    Args:
        model: an open checkpoint.
        base: what it is a difference from, if it is one.
    """

    def __init__(self, model: Checkpoint, base: Checkpoint | None = None) -> None:
        self.model = model
        self._base = base if model.deltas else None
        self._whole = base.source if model.deltas and base is not None else model.source

    @property
    def names(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor's shape by its name."""
        return {name: spec.shape for name, spec in self._whole.header.items()}

    @property
    def fingerprint(self) -> str:
        """Changes whenever the weights may have."""
        own = self.model.source.fingerprint()
        return own if self._base is None else f"{self._base.source.fingerprint()}+{own}"

    def read(self, name: str) -> Tensor:
        """Returns a tensor in float32; integers as they are."""
        found = _read(self._whole, name)
        if self._base is not None and name in self.model.source.header:
            found += _read(self.model.source, name)
        return found


class WithHead(Weights):
    """The weights of one model under the head of another.

    Args:
        body: whose weights they are.
        head: whose head stands on them.
        names: what belongs to the head, by the names that `head` has for it.
    """

    def __init__(self, body: Weights, head: Weights, names: frozenset[str]) -> None:
        self.model = body.model
        self._body, self._head, self._of_head = body, head, names

    @property
    def names(self) -> Mapping[str, tuple[int, ...]]:
        shapes = self._head.names
        return {**self._body.names, **{name: shapes[name] for name in sorted(self._of_head)}}

    @property
    def fingerprint(self) -> str:
        return f"{self._body.fingerprint} under the head of {self._head.fingerprint}"

    def read(self, name: str) -> Tensor:
        return (self._head if name in self._of_head else self._body).read(name)


def _read(source: Any, name: str) -> Tensor:
    spec = source.header[name]
    if spec.dtype.name not in _TYPES:
        raise CalibrationError(f"{source.name}: {name}: expected numbers to run the model with, found {spec.dtype}")
    raw = torch.empty(spec.shape, dtype=getattr(torch, _TYPES[spec.dtype.name]))
    view = raw.reshape(-1).view(torch.uint8) if raw.numel() else raw.reshape(-1).to(torch.uint8)
    source.read_into(name, 0, view.numpy())
    return raw.float() if raw.dtype.is_floating_point else raw


@dataclass
class _Slot:
    """One tensor of a module under all names that it has there."""

    names: list[str]
    owners: list[tuple[Any, str]]
    empty: Any

    def put(self, value: Any) -> None:
        """Puts a tensor where the module looks for it."""
        for module, attribute in self.owners:
            kept = module._parameters if isinstance(value, torch.nn.Parameter) else module._buffers  # noqa: SLF001
            kept[attribute] = value


@dataclass(frozen=True)
class Fitted:
    """Weights, and under which name they hold each tensor of a module: by the first of its names there."""

    weights: Weights
    stored: Mapping[str, str]


class Skeleton:
    """A module without weights, and where its parts are found in a checkpoint.

    Args:
        module: with parameters on the meta device.
        reference: how messages call the model.
        blocks: whether its blocks are loaded one at a time; else all of it is one part.
    """

    def __init__(self, module: "torch.nn.Module", reference: str, *, blocks: bool = True) -> None:
        self.module = module.eval()
        self.reference = reference
        self.blocks = find_blocks(module) if blocks else {}
        self._slots = list(_slots(module))

    def fit(self, weights: Weights) -> Fitted:
        """Finds every parameter among a checkpoint's tensors.

        Raises:
            CalibrationError: when some are missing or have another shape; names them.
        """
        names = weights.names
        stored: dict[str, str] = {}
        new = renamed(self.module, names)
        prefix = f"{getattr(self.module, 'base_model_prefix', '') or '?'}."
        absent = []
        for slot in self._slots:
            tried = [*slot.names, *(prefix + n for n in slot.names), *(n.removeprefix(prefix) for n in slot.names)]
            tried += [_old(name) for name in tried]
            found = next((new.get(name, name) for name in tried if name in names or name in new), None)
            shape = tuple(slot.empty.shape)
            if found is None and "pooler" in slot.names[0]:
                pass  # its output reaches nothing that is measured
            elif found is None:
                absent.append(f"{slot.names[0]} {list(shape)}: not there")
            elif names[found] != shape:
                absent.append(f"{slot.names[0]}: expected {list(shape)}, found {list(names[found])}")
            else:
                stored[slot.names[0]] = found
        if absent:
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            raise CalibrationError(
                f"{self.reference}: its tensors do not fit {type(self.module).__name__}, which config.json names: "
                f"{'; '.join(absent[:5])}{more}"
            )
        return Fitted(weights, stored)

    def parameters(self, fitted: Fitted) -> dict[str, list[str]]:
        """Returns the names that a tensor has in the module, by its name in a checkpoint."""
        return {fitted.stored[slot.names[0]]: slot.names for slot in self._slots if slot.names[0] in fitted.stored}

    @property
    def count(self) -> int:
        """How many tensors it has; tied ones are one."""
        return len(self._slots)

    def nbytes(self, part: str | None) -> int:
        """Bytes of a block in float32; of all that is in no block for None."""
        return sum(slot.empty.numel() * 4 for slot in self._of(part))

    def load(self, part: str | None, fitted: Fitted) -> None:
        """Loads a block, or for None all that is in no block."""
        for slot in self._of(part):
            name = fitted.stored.get(slot.names[0])
            value = torch.zeros(slot.empty.shape) if name is None else fitted.weights.read(name)
            if isinstance(slot.empty, torch.nn.Parameter):
                slot.put(torch.nn.Parameter(value, requires_grad=False))
            else:
                slot.put(value)

    def place(self, fitted: Fitted, parameters: Mapping[str, Any]) -> set[str]:
        """Makes parameters of others the module's own, by a checkpoint's names, and returns the names it has.

        They are shared, not copied: a gradient that reaches the module is theirs.
        """
        placed = set()
        for slot in self._slots:
            name = fitted.stored.get(slot.names[0])
            if name is not None and name in parameters:
                shared = parameters[name]
                slot.put(shared if isinstance(slot.empty, torch.nn.Parameter) else shared.detach())
                placed.add(name)
        return placed

    def free(self, part: str | None) -> None:
        """Lets a block's weights go."""
        for slot in self._of(part):
            slot.put(slot.empty)

    def _of(self, part: str | None) -> Iterator["_Slot"]:
        for slot in self._slots:
            if self.part_of(slot.names[0]) == part:
                yield slot

    def part_of(self, name: str) -> str | None:
        """Returns the block that a parameter of the module belongs to; None outside of all."""
        return next((block for block in self.blocks if name.startswith(f"{block}.")), None)


def renamed(module: Any, names: Iterable[str]) -> dict[str, str]:
    """Returns the checkpoint's names by those that transformers now gives the same tensors, where they differ."""
    mapping = _optional("transformers.conversion_mapping")
    loading = _optional("transformers.core_model_loading")
    if mapping is None or loading is None:  # an earlier transformers, whose modules have the checkpoints' names
        return {}
    every = mapping.get_model_conversion_mapping(module)
    renamings = [each for each in every if isinstance(each, loading.WeightRenaming)]
    changed = ((loading.apply_renamings(name, renamings), name) for name in names) if renamings else ()
    return {new: name for new, name in changed if new != name}


def _optional(module: str) -> Any:
    """A part of transformers, if this version has it."""
    try:
        return load(module, "")
    except CalibrationError:
        return None


def _old(name: str) -> str:
    """The name that early checkpoints of the first BERT family have for a parameter."""
    if name.endswith("LayerNorm.weight"):
        return name.removesuffix("weight") + "gamma"
    return name.removesuffix("bias") + "beta" if name.endswith("LayerNorm.bias") else name


def _slots(module: "torch.nn.Module") -> Iterator[_Slot]:
    """Yields parameters and persistent buffers, tied ones together."""
    found: dict[int, _Slot] = {}
    for path, inner in module.named_modules():
        tensors = dict(inner._parameters)  # noqa: SLF001 - the owner of a tied parameter is not told otherwise
        tensors |= {n: b for n, b in inner._buffers.items() if n not in inner._non_persistent_buffers_set}  # noqa: SLF001
        for attribute, tensor in tensors.items():
            if tensor is None:
                continue
            slot = found.setdefault(id(tensor), _Slot([], [], tensor))
            slot.names.append(f"{path}.{attribute}" if path else attribute)
            slot.owners.append((inner, attribute))
    yield from found.values()


def find_blocks(module: "torch.nn.Module") -> dict[str, Any]:
    """Returns the blocks of a module by name: the members of its outermost lists of modules of one class."""
    blocks: dict[str, Any] = {}
    for name, inner in module.named_modules():
        if any(name.startswith(f"{block}.") for block in blocks) or not isinstance(inner, torch.nn.ModuleList):
            continue
        kinds = {type(member) for member in inner}
        if len(kinds) == 1 and all(any(True for _ in member.parameters()) for member in inner):
            blocks |= {f"{name}.{number}": member for number, member in enumerate(inner)}
    return blocks


# ---- building -------------------------------------------------------------------------------------------------------


@contextmanager
def _without_memory() -> Iterator[None]:
    """Makes `torch.empty`, which parameters are made by, take no memory; draws nothing from the global generator."""

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if func in (torch.empty, torch.randn) and kwargs.get("device") is None:
                kwargs["device"] = "meta"
            return func(*args, **kwargs)

    with torch.random.fork_rng(devices=[]), Mode():
        yield


def build(model: Checkpoint, *, headless: bool) -> "torch.nn.Module":
    """Builds the module that a model's config.json names, without weights.

    Args:
        model: with a config; an adapter's is its base's.
        headless: leave out what stands on the last hidden state.

    Raises:
        CalibrationError: when there is no config, or transformers does not know it.
    """
    transformers = load("transformers", f"{model.reference}: running it")
    if model.folder is None or not model.config:
        raise CalibrationError(f"{model.reference}: expected a folder with a config.json that says how to run it")
    try:
        config = transformers.AutoConfig.from_pretrained(str(model.folder))
        for part in (config, *vars(config).values()):
            if getattr(part, "use_cache", False):
                part.use_cache = False  # keys and values that nothing will read again
        names = getattr(config, "architectures", None) or []
        kind = getattr(transformers, names[0], None) if names else None
        with _without_memory():
            built = transformers.AutoModel.from_config(config) if kind is None else kind(config)
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CalibrationError(f"{model.reference}: transformers cannot build it: {reason}") from error
    built.tie_weights()
    module: torch.nn.Module = built.base_model if headless else built
    if module is built and headless:  # a family whose models with a head have no inner model, such as T5
        _behead(module)
    for inner in module.modules():
        for parameter in list(inner._parameters.values()):  # noqa: SLF001
            if parameter is not None and not parameter.is_meta:
                _unload(module, parameter, torch.nn.Parameter(parameter.to("meta"), requires_grad=False))
    return module


def _behead(module: Any) -> None:
    """Takes away what makes words of the last hidden state: it reaches nothing that is measured, and is dear."""
    head = getattr(module, "get_output_embeddings", lambda: None)()
    for name, child in module.named_children():
        if child is head:
            setattr(module, name, torch.nn.Identity())


def _unload(module: "torch.nn.Module", old: Any, new: Any) -> None:
    for inner in module.modules():
        for attribute, parameter in inner._parameters.items():  # noqa: SLF001
            if parameter is old:
                inner._parameters[attribute] = new  # noqa: SLF001
