"""What passes through a model's layers, shown to statistics: rows of inputs at the tensors that are asked about.

A linear map (`nn.Linear`, GPT-2's transposed `Conv1D`, a packed attention input) is shown the rows it multiplies; a
convolution its unfolded patches; the scale of a norm the normalised activations before it. Maps that are given one
and the same tensor (query, key and value) share one state.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eutectic.errors import CalibrationError
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Accumulated, Sees
from eutectic.stats.store import Outcome


@dataclass(frozen=True)
class Site:
    """A parameter that layers' inputs meet.

    Attributes:
        name: of the parameter.
        sees: what statistics are shown there.
        axis: the weight's axis that the inputs' width runs along.
        rows: from a call's arguments, the tensor that is shown, (..., width) or (groups, ..., width).
        groups: whether the layer's channels fall into groups that do not meet.
    """

    name: str
    sees: Sees
    axis: int
    rows: Callable[[Any], Tensor]
    groups: bool = False


def sites(module: "torch.nn.Module", name: str) -> list[Site]:
    """Returns the parameters of one layer that its inputs meet; none for a layer of unknown kind."""
    nn = torch.nn
    kind = type(module).__name__
    weight = f"{name}.weight" if name else "weight"
    if isinstance(module, nn.Linear):
        return [Site(weight, Sees.INPUTS, 1, _first)]
    if kind == "Conv1D" and hasattr(module, "nf"):
        return [Site(weight, Sees.INPUTS, 0, _first)]
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        if type(module).forward not in (nn.Conv1d.forward, nn.Conv2d.forward):
            return []  # it may pad first, so that what it multiplies is not what it is given
        return [Site(weight, Sees.INPUTS, 1, lambda given: _patches(module, _first(given)), groups=module.groups > 1)]
    if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
        packed = f"{name}.in_proj_weight" if name else "in_proj_weight"
        return [Site(packed, Sees.INPUTS, 1, lambda given: _packed(module, given), groups=False)]
    if getattr(module, "weight", None) is not None and _norm(module) is not None:
        return [Site(weight, Sees.NORMALISED, 0, lambda given: _normalised(module, _first(given)))]
    return []


@dataclass
class _State:
    value: Tensor
    rows: int
    axis: int


class Collector:
    """Takes statistics at the parameters of a model while it runs.

    Args:
        wanted: statistics by parameter name.
        reference: how messages call the model.
    """

    def __init__(self, wanted: Mapping[str, Sequence[Accumulated]], reference: str) -> None:
        self._wanted, self._reference = wanted, reference
        self._states: dict[tuple[Accumulated, str], _State] = {}
        self._follows: dict[tuple[Accumulated, str], str] = {}
        self._masks: list[Tensor] = []
        #: Tensors given to layers in the batch that runs, by identity, with the first parameter that met each. They
        #: are held, so that no other tensor can take an identity.
        self._given: dict[tuple[int, Sees], tuple[Any, str]] = {}
        self._fresh: set[tuple[Accumulated, str]] = set()

    def attach(self, root: "torch.nn.Module", prefix: str, skip: Iterable["torch.nn.Module"] = ()) -> list[Any]:
        """Watches the layers under `root`, whose parameters are called `prefix.`...; returns handles to remove.

        Layers under the modules of `skip` are left to whoever attaches to those.
        """
        left = {id(inner) for module in skip for inner in module.modules()}
        handles = []
        for name, module in root.named_modules():
            if id(module) in left:
                continue
            full = f"{prefix}.{name}".strip(".")
            for site in sites(module, full):
                if any(each.takes(site.sees) for each in self._wanted.get(site.name, ())):
                    hook = self._hook(site)
                    handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        return handles

    def begin(self, masks: Sequence[Tensor]) -> None:
        """A batch is next; `masks` are (samples, tokens) and say which tokens count. Without one that fits, all do."""
        self._masks = [mask.bool() for mask in masks]
        self._given.clear()
        self._fresh.clear()

    def take(self, names: Iterable[str], statistic: Accumulated) -> dict[str, Outcome]:
        """Returns a statistic's results at some parameters, as far as any rows came by, and forgets them.

        Raises:
            CalibrationError: when something that is not finite came by; names the model and the tensor.
        """
        outcomes: dict[str, Outcome] = {}
        followers = {}
        for name in names:
            leader = self._follows.pop((statistic, name), None)
            if leader is not None:
                followers[name] = leader
                continue
            state = self._states.pop((statistic, name), None)
            if state is None:
                continue
            result = statistic.finish(state.value, state.rows)
            if not bool(torch.isfinite(result).all()):
                raise CalibrationError(
                    f"{self._reference}: what reaches {name} is NaN or infinite; the model's weights or samples are "
                    "broken, or its numbers are too large for float32"
                )
            outcomes[name] = Outcome(state.rows, state.axis, result)
        for name, leader in followers.items():
            first = outcomes[leader]
            outcomes[name] = Outcome(first.rows, first.axis, None, leader)
        return outcomes

    def _hook(self, site: Site) -> Callable[..., None]:
        def watch(_: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            given = args if args else tuple(kwargs.values())
            self._show(site, given)

        return watch

    def _show(self, site: Site, given: tuple[Any, ...]) -> None:
        first = given[0]
        kept = self._given.setdefault((id(first), site.sees), (first, site.name))
        shown: Tensor | None = None
        for statistic in self._wanted[site.name]:
            if not statistic.takes(site.sees):
                continue
            key = (statistic, site.name)
            if self._shares(statistic, site, kept[1], given):
                continue
            if shown is None:
                shown = self._rows(site, site.rows(given).detach())
            state = self._states.get(key)
            if state is None:
                state = self._states[key] = _State(statistic.init((*shown.shape[:-2], shown.shape[-1])), 0, site.axis)
                self._fresh.add(key)
            if shown.shape[-2]:
                statistic.update(state.value, shown)
            state.rows += shown.shape[-2]

    def _shares(self, statistic: Accumulated, site: Site, leader: str, given: tuple[Any, ...]) -> bool:
        """Whether a parameter's rows are those of another, which has been shown them already."""
        key = (statistic, site.name)
        followed = self._follows.get(key)
        if followed is None and leader != site.name and key not in self._states and site.sees is Sees.INPUTS:
            first = self._states.get((statistic, leader))
            plain = len(given) == 1 or not isinstance(given[1], torch.Tensor)
            if first is not None and (statistic, leader) in self._fresh and plain and not site.groups:
                self._follows[key] = leader
                return True
        if followed is not None and followed != leader:
            raise CalibrationError(
                f"{self._reference}: {site.name} and {followed} were given the same tensor in one batch and different "
                "ones in another; please report this model"
            )
        return followed is not None

    def _rows(self, site: Site, shown: Tensor) -> Tensor:
        """Flattens what is shown to rows, without those that are padding."""
        if site.groups:
            return shown.flatten(1, -2)
        for mask in self._masks:
            mask = mask.to(shown.device)
            if shown.dim() >= 3 and shown.shape[:2] == mask.shape:
                return shown[mask].reshape(-1, shown.shape[-1])
            if shown.dim() == 2 and shown.shape[0] == mask.numel():
                return shown[mask.reshape(-1)]
        return shown.reshape(-1, shown.shape[-1])


# ---- what layers multiply -------------------------------------------------------------------------------------------


def _first(given: tuple[Any, ...]) -> Tensor:
    found: Tensor = given[0]
    return found


def _packed(module: Any, given: tuple[Any, ...]) -> Tensor:
    """The input of a packed attention; its three parts must be given one tensor."""
    query, key, value = given[:3]
    if query is not key or key is not value:
        raise CalibrationError(
            "expected one input for the query, key and value of a packed attention, found several; keep that tensor "
            "from one model by a rule"
        )
    rows: Tensor = query
    return rows if module.batch_first or rows.dim() < 3 else rows.transpose(0, 1)


def _patches(module: Any, given: Tensor) -> Tensor:
    """The patches a convolution multiplies: (samples, places, width), or (groups, samples, places, width)."""
    flat = given.dim() == 3
    image = given.unsqueeze(2) if flat else given
    kernel, stride, dilation = (
        ((1, *each) if flat else each) for each in (module.kernel_size, module.stride, module.dilation)
    )
    padding = module.padding
    if isinstance(padding, str):
        wide = [dilation[axis] * (kernel[axis] - 1) if padding == "same" else 0 for axis in (0, 1)]
        pads = [wide[1] // 2, wide[1] - wide[1] // 2, wide[0] // 2, wide[0] - wide[0] // 2]
    else:
        rows, columns = (0, padding[0]) if flat else padding
        pads = [columns, columns, rows, rows]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    image = torch.nn.functional.pad(image, pads, mode=mode) if any(pads) else image
    found = torch.nn.functional.unfold(image, kernel, dilation=dilation, stride=stride).transpose(1, 2)
    if module.groups == 1:
        return found
    samples, places, width = found.shape
    return found.reshape(samples, places, module.groups, width // module.groups).permute(2, 0, 1, 3)


def _norm(module: Any) -> float | None:
    """The epsilon of a norm; None for other layers."""
    if "Norm" not in type(module).__name__:
        return None
    for name in ("eps", "variance_epsilon", "epsilon"):
        value = getattr(module, name, None)
        if isinstance(value, float):
            return value
    return None


def _normalised(module: Any, given: Tensor) -> Tensor:
    """What a norm's scale multiplies, channels last."""
    nn, functional = torch.nn, torch.nn.functional
    epsilon = _norm(module) or 0.0
    if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - the class all batch norms share
        found = functional.batch_norm(given, module.running_mean, module.running_var, eps=epsilon)
        return found.movedim(1, -1)
    if isinstance(module, nn.GroupNorm):
        return functional.group_norm(given, module.num_groups, eps=epsilon).movedim(1, -1)
    width = module.weight.shape
    if "RMS" in type(module).__name__ or getattr(module, "is_rms", False):
        wide = given.float()
        return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    if "T5LayerNorm" in type(module).__name__:
        return given * torch.rsqrt(given.square().mean(-1, keepdim=True) + epsilon)
    return functional.layer_norm(given.float(), tuple(width), eps=epsilon)
