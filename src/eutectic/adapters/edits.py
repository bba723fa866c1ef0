"""What an adapter does to each tensor of the base, worked out from names and shapes before a value is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from eutectic.adapters.config import LoraConfig
from eutectic.adapters.names import Module, Names, Resolver
from eutectic.adapters.oft import OftConfig, Turn, TurnNames, size_of
from eutectic.adapters.stored import Pair
from eutectic.checkpoint.spec import TensorSpec
from eutectic.errors import CheckpointError, MismatchError

Header = Mapping[str, TensorSpec]


@dataclass(frozen=True)
class Edit:
    """What happens to one tensor, in this order.

    Attributes:
        name: the tensor, as the base calls it.
        shape: its shape.
        full: key of a stored tensor that takes the base's place.
        pair: factors of an update that is added.
        shift: key of a stored tensor that is added after scaling, and the scale.
        magnitude: key of DoRA's magnitudes: each output's weights are rescaled to this length.
        module: what the adapter calls the module that the pair, or the turn, belongs to.
        turn: rotations that the base's values, or those that take their place, are multiplied with.
    """

    name: str
    shape: tuple[int, ...]
    full: str | None = None
    pair: Pair | None = None
    shift: tuple[str, float] | None = None
    magnitude: str | None = None
    module: str = ""
    turn: Turn | None = None

    @property
    def needs_base(self) -> bool:
        """Whether the difference from the base depends on the base's values."""
        return self.full is not None or self.magnitude is not None or self.turn is not None

    @property
    def by_column(self) -> bool:
        """Whether outputs are columns of the tensor instead of rows."""
        return self.pair is not None and self.pair.transposed


def edits_alone(names: Names, config: LoraConfig, header: Header, where: str) -> dict[str, Edit]:
    """Works out the edits without a base: names and orientation are taken from the adapter as they are.

    Raises:
        CheckpointError: when factors contradict each other or the configuration, or a tensor needs the base.
    """
    if names.full:
        name, key = next(iter(names.full.items()))
        raise CheckpointError(
            f"{where}: tensor '{key}' replaces '{name}' in full, so its difference needs the base; give the base too"
        )
    if config.parameters:
        raise CheckpointError(
            f"{where}: updates stacked parameters ('{config.parameters[0]}'), whose shape only the base tells; "
            "give the base too"
        )
    edits: dict[str, Edit] = {}
    for module in names.modules.values():
        if module.magnitude is not None:
            raise CheckpointError(
                f"{where}: module '{module.name}' is DoRA, whose difference depends on the base; give the base too"
            )
        out, inputs = _product_shape(module, config, header, where)
        transposed = module.embedding or (config.transposed and len(inputs) == 1)
        shape = (*inputs, out) if transposed else (out, *inputs)
        pair = Pair(module.a, module.b, config.scale_of(module.name), transposed)
        edits[f"{module.name}.weight"] = Edit(f"{module.name}.weight", shape, pair=pair, module=module.name)
        if module.bias is not None:
            shift = (module.bias, config.scale_of(module.name))
            edits[f"{module.name}.bias"] = Edit(f"{module.name}.bias", (out,), shift=shift)
    return edits


def edits_against(
    names: Names, config: LoraConfig, header: Header, base: Header, where: str, base_name: str
) -> dict[str, Edit]:
    """Works out the edits of a base's tensors; a tensor stored in full that the base lacks keeps its own name.

    Raises:
        CheckpointError: when factors contradict each other or the configuration, or a name is ambiguous.
        MismatchError: when a module or shape does not fit the base.
    """
    fit = _Fit(header, base, where, base_name)
    for name, key in names.full.items():
        fit.place_full(name, key, config.saved)
    for module in names.modules.values():
        fit.place_module(module, config)
    fit.check_stacked(config)
    return fit.edits


def turns_against(
    names: TurnNames, config: OftConfig, header: Header, base: Header, where: str, base_name: str
) -> dict[str, Edit]:
    """Works out what an OFT adapter's edits of a base's tensors are.

    Raises:
        CheckpointError: when generators contradict the configuration, or a name is ambiguous.
        MismatchError: when a module or shape does not fit the base.
    """
    fit = _Fit(header, base, where, base_name)
    for name, key in names.full.items():
        fit.place_full(name, key, config.saved)
    for name, (key, embedding) in names.modules.items():
        fit.place_turn(name, key, embedding, config)
    return fit.edits


class _Fit:
    """An adapter being fitted to a base, edit by edit."""

    def __init__(self, header: Header, base: Header, where: str, base_name: str) -> None:
        self.edits: dict[str, Edit] = {}
        self._header, self._base = header, base
        self._where, self._base_name = where, base_name
        self._resolver = Resolver(base)
        self._votes = Orientations(base)
        self._origin: dict[str, str] = {}  # target -> the adapter's name for it
        self._stacked: set[str] = set()  # which of the configuration's parameters have factors

    def place_full(self, name: str, key: str, saved: Sequence[str]) -> None:
        """Adds a tensor stored in full."""
        if not self._header[key].dtype.mergeable:
            raise CheckpointError(f"{self._where}: expected float values in '{key}', found {self._header[key].dtype}")
        target = self._resolver.find(name, self._where)
        if target is None and any(f".{module}." in f".{name}" for module in saved):
            # A head of the adapter's own, say a classifier on a bare encoder.
            self.edits[name] = Edit(name, self._header[key].shape, full=key)
        else:
            self._place(name, key, Edit(target or name, self._header[key].shape, full=key))

    def place_module(self, module: Module, config: LoraConfig) -> None:
        """Adds a module's factors, and the update of its bias if it has one."""
        if config.parameters and self._place_stacked(module, config):
            return
        out, inputs = _product_shape(module, config, self._header, self._where)
        scale = config.scale_of(module.name)
        name = f"{module.name}.weight"
        target = self._resolver.find(name, self._where) or name
        transposed = module.embedding or (
            len(inputs) == 1 and self._transposed(target, out, inputs[0], config.transposed)
        )
        shape = (*inputs, out) if transposed else (out, *inputs)
        edit = replace(self.edits.get(target, Edit(target, shape)), shape=shape)
        pair = Pair(module.a, module.b, scale, transposed)
        self._place(name, module.a, replace(edit, pair=pair, magnitude=module.magnitude, module=module.name))
        if module.bias is not None:
            name = f"{module.name}.bias"
            target = self._resolver.find(name, self._where) or name
            edit = replace(self.edits.get(target, Edit(target, (out,))), shape=(out,))
            self._place(name, module.bias, replace(edit, shift=(module.bias, scale)))

    def place_turn(self, module: str, key: str, embedding: bool, config: OftConfig) -> None:
        """Adds the rotations of a module's inputs."""
        stored, name = self._header[key], f"{module}.weight"
        size = size_of(stored.shape[1]) if len(stored.shape) == 2 and stored.dtype.mergeable else None
        if size is None:
            raise CheckpointError(
                f"{self._where}: expected generators of shape (blocks, b (b - 1) / 2) in '{key}', found "
                f"{stored.dtype} of shape {stored.shape}; save the adapter again in PEFT"
            )
        target = self._resolver.find(name, self._where) or name
        spec = self._base.get(target)
        if spec is not None:
            self._check_turned(key, stored, size, spec, embedding, config)
        edit = self.edits.get(target, Edit(target, spec.shape if spec is not None else ()))
        turn = Turn(key, size, embedding, config.terms, config.radius)
        self._place(name, key, replace(edit, module=module, turn=turn))

    def _check_turned(
        self, key: str, stored: TensorSpec, size: int, spec: TensorSpec, embedding: bool, config: OftConfig
    ) -> None:
        if len(spec.shape) != 2 or (not embedding and self._votes.of(spec.name, config.transposed)):
            raise MismatchError(
                f"{self._where}: '{key}' rotates the inputs of '{spec.name}' of shape {spec.shape}, a convolution or a "
                "map stored as (in, out), which is not read; merge the adapter into its base in PEFT"
            )
        blocks = spec.shape[1] / size
        if stored.shape[0] != (1 if config.shared else blocks) or blocks != int(blocks):
            have = "one block that all share" if config.shared else f"{blocks:g} blocks"
            raise MismatchError(
                f"{self._where}: expected {have} of {size} channels for '{spec.name}' of shape {spec.shape} in the "
                f"base {self._base_name}, found {stored.shape[0]} in '{key}'; take the base this adapter was trained on"
            )

    def _place_stacked(self, module: Module, config: LoraConfig) -> bool:
        """Adds the factors of a stacked parameter; False when the module holds none that is targeted.

        The file says which module, not which of its parameters: that is the targeted one of fitting shape and rank.
        """
        a, b = self._header[module.a], self._header[module.b]
        under = module.name.replace(".base_layer", "")
        fitting: list[tuple[str, int, bool, str]] = []
        known = False
        for ending in config.parameters:
            parent, _, leaf = ending.rpartition(".")
            target = self._resolver.find(f"{under}.{leaf}", self._where)
            if target is None or not f".{under}".endswith(f".{parent}" if parent else ""):
                continue
            known = True
            shape = self._base[target].shape
            experts = shape[0] if len(shape) == 3 else 1
            matrix = shape[-2:]
            if len(a.shape) == len(b.shape) == 2 and config.rank_of(f"{under}.{leaf}") * experts == a.shape[0]:
                for swapped, sides in ((False, (b.shape[0], a.shape[1])), (True, (a.shape[1], b.shape[0]))):
                    if matrix == sides and b.shape[1] == a.shape[0]:
                        fitting.append((target, experts, swapped, ending))
        if not known:
            return False
        if len(fitting) != 1:
            found = ", ".join(sorted({name for name, *_ in fitting})) or "none"
            raise MismatchError(
                f"{self._where}: '{module.a}' of shape {a.shape} and its B of shape {b.shape} fit {found} of the "
                f"targeted parameters in {len(fitting)} ways, expected one; merge the adapter into its base in PEFT"
            )
        target, experts, swapped, ending = fitting[0]
        self._stacked.add(ending)
        pair = Pair(module.a, module.b, config.scale_of(target), swapped, experts)
        self._place(target, module.a, Edit(target, self._base[target].shape, pair=pair, module=module.name))
        return True

    def check_stacked(self, config: LoraConfig) -> None:
        """Checks that every parameter which the configuration targets was met."""
        for ending in config.parameters:
            if ending not in self._stacked:
                raise MismatchError(
                    f"{self._where}: target_parameters names '{ending}', and no factors of the file fit such a "
                    f"parameter of the base {self._base_name}; take the base this adapter was trained on"
                )

    def _place(self, name: str, key: str, edit: Edit) -> None:
        spec = self._base.get(edit.name)
        if spec is None:
            raise MismatchError(
                f"{self._where}: '{name}' (of '{key}') is not in the base {self._base_name}"
                f"{self._resolver.alike(name)}; take the base this adapter was trained on"
            )
        if self._origin.setdefault(spec.name, name) != name:
            other = self._origin[spec.name]
            raise CheckpointError(f"{self._where}: '{other}' and '{name}' both fit '{spec.name}' of the base")
        if edit.shape != spec.shape:
            raise MismatchError(
                f"{self._where}: expected shape {spec.shape} of '{spec.name}' in the base {self._base_name}, found "
                f"{edit.shape} in '{key}'; take the base this adapter was trained on, its embeddings resized as then"
            )
        if not spec.dtype.mergeable:
            raise MismatchError(
                f"{self._where}: '{spec.name}' is stored as {spec.dtype} in the base {self._base_name}, and an update "
                "can only be added to floats; take the base in bfloat16, float16 or float32"
            )
        self.edits[spec.name] = edit

    def _transposed(self, target: str, out: int, inputs: int, said: bool) -> bool:
        """Whether the base stores the weight (in, out).

        The shape says so unless it is square. Then the other weights of its block do. The configuration comes last:
        where an adapter covers both kinds of layer it tells the kind of the last one only.
        """
        if inputs != out:
            return target in self._base and self._base[target].shape == (inputs, out)
        return self._votes.of(target, said)


class Orientations:
    """Whether weights of a base are stored (in, out), as Conv1D does: a bias has as many values as there are outputs.

    Args:
        base: the base's tensors.
    """

    def __init__(self, base: Header) -> None:
        self._base = base
        self._votes = _votes(base)

    def of(self, name: str, otherwise: bool = False) -> bool:
        """Returns what a weight's bias says, else what the other weights of its block agree on, else `otherwise`."""
        spec, bias = self._base.get(name), self._base.get(name.removesuffix("weight") + "bias")
        if spec is not None and bias is not None and len(spec.shape) == 2 and spec.shape[0] != spec.shape[1]:
            return bias.shape == spec.shape[1:]
        votes = self._votes.get(_block(name), set())
        return next(iter(votes)) if len(votes) == 1 else otherwise


def _votes(base: Header) -> dict[str, set[bool]]:
    votes: dict[str, set[bool]] = {}
    for name, spec in base.items():
        bias = base.get(name.removesuffix("weight") + "bias")
        if bias is None or len(bias.shape) != 1 or len(spec.shape) != 2 or spec.shape[0] == spec.shape[1]:
            continue
        if bias.shape[0] in spec.shape:
            votes.setdefault(_block(name), set()).add(bias.shape[0] == spec.shape[1])
    return votes


def _block(name: str) -> str:
    """Returns a tensor's name up to its last number."""
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts) if part.isdecimal()), default=-1)
    return ".".join(parts[: last + 1])


def _product_shape(module: Module, config: LoraConfig, header: Header, where: str) -> tuple[int, tuple[int, ...]]:
    """Checks a module's factors against each other and the configuration; returns outputs and input axes."""
    a, b = header[module.a], header[module.b]
    what = f"{where}: module '{module.name}'"
    keys = [key for key in (module.a, module.b, module.bias, module.magnitude) if key is not None]
    for key in keys:
        if not header[key].dtype.mergeable:
            raise CheckpointError(f"{what}: expected float values in '{key}', found {header[key].dtype}")
    kernel = b.shape[2:]
    if min(len(a.shape), len(b.shape)) < 2 or any(axis != 1 for axis in kernel) or 0 in (*a.shape, *b.shape):
        raise CheckpointError(
            f"{what}: expected factors (r, in) and (out, r), found shapes {a.shape} and {b.shape}; "
            "empty or flat factors come from saving a sharded model without gathering it"
        )
    if a.shape[0] != b.shape[1]:
        raise CheckpointError(
            f"{what}: A of shape {a.shape} has rank {a.shape[0]}, B of shape {b.shape} has {b.shape[1]}"
        )
    rank = config.rank_of(module.name)
    if a.shape[0] != rank:
        raise CheckpointError(f"{what}: its factors have rank {a.shape[0]}, {config.where} says {rank}")
    if (module.magnitude is not None) != config.dora:
        have = "has" if module.magnitude is not None else "lacks"
        raise CheckpointError(f"{what} {have} DoRA magnitudes, but {config.where} says use_dora is {config.dora}")
    for key in keys[2:]:
        if header[key].numel != b.shape[0]:
            raise CheckpointError(f"{what}: expected {b.shape[0]} values in '{key}', found shape {header[key].shape}")
    return b.shape[0], a.shape[1:]
