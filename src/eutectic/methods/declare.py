"""How a method says what it is: a pure function of a site, and the facts the planner, the docs and the tests read.

A method is written as the paper writes it and decorated with `@transform` (keeps the n models) or `@combine` (makes
one of them). Its signature is its schema: every keyword parameter has a default or is required, and its annotation is
one of a closed list of kinds (`float`, `int`, `bool`, `Literal[...]`, `Fraction`, `NonNegative`, `PerModel`,
`PerModelFraction`). Calling the wrapped method calls the function and nothing else, and returns the tensor; `outputs`
has the extras too.
"""

import enum
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Concatenate, Generic, Literal, ParamSpec, cast, get_args, get_origin

from eutectic.adapters.factors import Factors
from eutectic.errors import RecipeError, nearest
from eutectic.methods.extras import Extra, Outputs, Specialise
from eutectic.methods.site import Coordinates, Site
from eutectic.numerics.stages import Fused
from eutectic.numerics.tensors import Tensor
from eutectic.stats.fold import Calibrated, Norm, Statistic

P = ParamSpec("P")
#: What a method returns: a tensor, with extras where it has any; in the domain FACTORS a combine may return factors,
#: and a transform coordinates.
Made = Tensor | Outputs | Factors | Coordinates


@dataclass(frozen=True)
class Bounds:
    """The closed interval a number must lie in, and whether there is one number per model."""

    low: float | None = None
    high: float | None = None
    per_model: bool = False


#: A share in [0, 1].
Fraction = Annotated[float, Bounds(0.0, 1.0)]
#: A number from 0 up.
NonNegative = Annotated[float, Bounds(0.0)]
#: One number per model; arrives as a tensor of shape (n, 1, ..., 1), ready to broadcast against the site.
PerModel = Annotated[Tensor, Bounds(per_model=True)]
#: One number of at least 0 per model.
PerModelWeight = Annotated[Tensor, Bounds(0.0, per_model=True)]
#: One share in [0, 1] per model.
PerModelFraction = Annotated[Tensor, Bounds(0.0, 1.0, per_model=True)]


class Locality(enum.IntEnum):
    """The least a method must see at once: an element (all models), a row (last axis), or the whole tensor."""

    ELEMENT = 0
    ROW = 1
    TENSOR = 2


class Domain(enum.Enum):
    """Which tensors a method is for: every one, those of two axes, of these the linear maps, or all that layers hold.

    Embeddings, positions, heads and parameters that are no maps (norms, scales, states) are matrices in shape only.
    LAYERS are linear maps, convolutions, scales and shifts; `site.meets` tells them apart.
    What becomes of the others is `elsewhere`'s to say; a transform leaves them as they are.

    FACTORS is another view of the same sites: a method gets the adapters' stored factors (`site.factors`) instead of
    their products, and every model of the recipe must be an adapter.
    """

    ANY = "tensors"
    MATRIX = "matrices"
    LINEAR = "linear maps"
    LAYERS = "layers"
    FACTORS = "stored factors"


@dataclass(frozen=True)
class Elsewhere:
    """What becomes of a tensor outside a combine's domain.

    Attributes:
        method: the combine that merges it, one for every tensor; None takes the base's tensor as it is.
        values: its hyperparameters; those left out have the value of the same name of the method outside whose domain
            the tensor is (a coefficient source included), else their default.
    """

    method: str | None = "linear"
    values: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Paper:
    """Where a method comes from: `source` is an arXiv id, a DOI or a repository."""

    source: str
    title: str
    year: int


@dataclass(frozen=True)
class Count:
    """How many models a method takes; the base is not counted."""

    low: int
    high: int | None = None

    def __str__(self) -> str:
        if self.high is None:
            return f"at least {self.low}"
        return f"exactly {self.low}" if self.low == self.high else f"{self.low} to {self.high}"


def exactly(n: int) -> Count:
    """Returns the count that accepts n models only."""
    return Count(n, n)


def at_least(n: int) -> Count:
    """Returns the count that accepts n models or more."""
    return Count(n)


@dataclass(frozen=True)
class Needs:
    """What a method needs from the engine.

    Attributes:
        base: reads `site.base` or `site.deltas`; a recipe without a base is refused.
        models: how many models, the base not counted unless `base_counts`.
        base_counts: the base, if there is one, is one of the models (SLERP: from the base to one model).
        locality: the least it must see at once. Slices of an ELEMENT site may be merged in any order.
        domain: which tensors it is for.
        random: draws from `site.key`; its result depends on the recipe's seed.
        float64: wants its tensors in double precision.
        fused: `Method.fused` can express it under these hyperparameters.
        scratch: peak extra memory of the torch function, in copies of (n, *shape) in the work dtype; or a function
            `(n, shape)` that returns elements of the work dtype, where it depends on more than their product. In the
            domain FACTORS: in copies of all factors of the site, and `dense` in copies of (d_out, d_in) beside them.
        dense: see `scratch`.
        basis: of a transform in the domain FACTORS, which sides of its `Coordinates` are at most as long as the sum of
            the ranks R: `out` makes them (min(d_out, R), d_in), `both` (min(d_out, R), min(d_in, R)). With `factors`
            they are two, (d_out, r) and (r, d_in) for the largest rank r (`Coordinates.rights`).
        rank: of a combine in the domain FACTORS, the rank of its result: the `sum` of the adapters' ranks, their `max`,
            or any (`full`: it returns a dense update).
    """

    base: bool = False
    models: Count = Count(1)
    base_counts: bool = False
    locality: Locality = Locality.TENSOR
    domain: Domain = Domain.ANY
    random: bool = False
    float64: bool = False
    fused: bool = True
    scratch: float | Callable[[int, tuple[int, ...]], float] = 3.0
    dense: float = 0.0
    basis: Literal["none", "out", "both", "factors"] = "none"
    rank: Literal["sum", "max", "full"] = "sum"

    def scratch_elements(self, n: int, shape: tuple[int, ...]) -> float:
        """Returns the peak extra memory of the torch function on n models of a shape, in elements."""
        return self.scratch(n, shape) if callable(self.scratch) else self.scratch * n * math.prod(shape)


@dataclass(frozen=True)
class Laws:
    """Properties every registered method is tested for. True is proved on samples, False needs a counter-example.

    Attributes:
        symmetric: permuting the models (with their parameters) does not change the result.
        fixed_point: when every model equals the base (or, without a base, one tensor), so does the result.
        identity: n copies of one model give that model.
        shift: adding one tensor to the base and every model adds it to the result.
        scale: multiplying base and models by a power of two multiplies the result.
        gauge: factors (B R, R^-1 A) in place of (B, A), which are the same update, do not change the result. Methods
            that never see factors have it.
    """

    symmetric: bool
    fixed_point: bool
    identity: bool
    shift: bool
    scale: bool
    gauge: bool = True


@dataclass(frozen=True)
class Parameter:
    """One hyperparameter, read from a method's signature.

    Attributes:
        name: as written in a recipe.
        kind: how its values are read: float, int, bool or choice.
        default: its default; `REQUIRED` when the recipe must give it.
        bounds: the interval it must lie in, and whether each model has its own.
        choices: the allowed words when kind is choice.
        doc: what it means, from the method's docstring.
    """

    name: str
    kind: Literal["float", "int", "bool", "choice"]
    default: Any
    bounds: Bounds
    choices: tuple[str, ...] = ()
    doc: str = ""

    @property
    def required(self) -> bool:
        """Whether a recipe must give it."""
        return self.default is REQUIRED

    def check(self, value: Any, where: str) -> Any:
        """Returns one value in its proper type.

        Raises:
            RecipeError: when the value is of another kind or out of bounds; the message starts with `where`.
        """
        if self.kind == "choice":
            if value not in self.choices:
                hint = nearest(str(value), self.choices)
                raise RecipeError(f"{where}: {self.name} is one of {', '.join(self.choices)}; found {value!r}{hint}")
            return value
        if self.kind == "bool":
            if not isinstance(value, bool):
                raise RecipeError(f"{where}: {self.name} is true or false; found {value!r}")
            return value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise RecipeError(f"{where}: {self.name} is a number; found {value!r}")
        if value != value or abs(value) > sys.float_info.max:
            raise RecipeError(f"{where}: {self.name} is finite; found {value!r}")
        if self.kind == "int" and int(value) != value:
            raise RecipeError(f"{where}: {self.name} is a whole number; found {value!r}")
        low, high = self.bounds.low, self.bounds.high
        if (low is not None and value < low) or (high is not None and value > high):
            room = f"lies in [{low}, {high}]" if high is not None else f"is at least {low}"
            raise RecipeError(f"{where}: {self.name} {room}; found {value!r}")
        return int(value) if self.kind == "int" else float(value)


class _Required(enum.Enum):
    REQUIRED = "required"

    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required.REQUIRED


@dataclass(frozen=True)
class Method(Generic[P]):
    """A method and its declarations. Calling it calls the function.

    Attributes:
        name: as written in a recipe.
        function: `(site, **hyperparameters) -> tensor`; `(*shape)` for a combine, `(n, *shape)` for a transform.
        combines: makes one model of n (a combine) or keeps the n models (a transform).
        paper: where it comes from.
        needs: what the engine must give it; `needs_for(hyperparameters)` where it depends on them.
        laws: what the law tests hold it to.
        folds: the statistics it reads through `site.fold(name)`, given its hyperparameters (per-model ones as tuples).
        calibrated: those that take data and the models' own forward or backward passes, read in the same way.
        fused: the same function as data for the fused CPU kernels, given a site without values and the
            hyperparameters (per-model ones as tuples); None where the kernels cannot express it. `Needs.fused` says for
            which hyperparameters it serves.
        elsewhere: what becomes of tensors outside its domain, given the number of models and its hyperparameters
            (per-model ones as tuples, those from a source left out). A transform leaves such tensors as they are.
        parameters: its schema.
        extras: what it makes for each model beside the merged tensor; its function then returns `Outputs`.
        specialise: how the tensor of one task comes from the base's, the merged one and that task's extras.
        generators: merges what adapters of rotations store of a module, n tensors (blocks, numbers) in float64, given
            its hyperparameters (per-model ones as tuples); None for methods that do not know rotations.
    """

    name: str
    function: Callable[Concatenate[Site, P], Made]
    combines: bool
    paper: Paper
    laws: Laws
    needs: Needs
    vary: Callable[..., Needs] | None
    folds: Callable[..., Mapping[str, Statistic]]
    calibrated: Callable[..., Mapping[str, Calibrated | Norm]]
    fused: Callable[..., Fused] | None
    elsewhere: Callable[..., Elsewhere]
    parameters: tuple[Parameter, ...]
    extras: tuple[Extra, ...] = ()
    specialise: Specialise | None = None
    generators: Callable[..., Tensor] | None = None

    def __call__(self, site: Site, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        return self.outputs(site, *args, **kwargs).merged

    def outputs(self, site: Site, /, *args: P.args, **kwargs: P.kwargs) -> Outputs:
        """Returns the merged tensor (of a transform, the new deltas) and the extras."""
        made = self.function(site, *args, **kwargs)
        return made if isinstance(made, Outputs) else Outputs(cast(Tensor, made))

    def on_factors(self, site: Site, /, *args: P.args, **kwargs: P.kwargs) -> Made:
        """Calls the function of a method in the domain FACTORS, whose result may be factors or coordinates."""
        return self.function(site, *args, **kwargs)

    def needs_for(self, hyperparameters: dict[str, Any]) -> Needs:
        """Returns the needs under these hyperparameters."""
        return self.needs if self.vary is None else self.vary(**hyperparameters)

    @property
    def doc(self) -> str:
        """The function's docstring."""
        return inspect.getdoc(self.function) or ""

    def left_out(self) -> "Method[P]":
        """Returns a transform that changes nothing, to stand in a chain where this one does not apply."""
        return replace(
            self,
            function=_unchanged,
            needs=Needs(base=True, locality=Locality.ELEMENT, scratch=0.0),
            vary=None,
            folds=no_folds,
            calibrated=no_data,
            fused=_no_stages,
        )

    def parameter(self, name: str) -> Parameter | None:
        """Returns the parameter of that name, if the method has one."""
        return next((p for p in self.parameters if p.name == name), None)


def no_folds(**_: object) -> Mapping[str, Statistic]:
    """Returns no statistics: the method sees all it needs in the site."""
    return {}


def _unchanged(site: Site, /, *_: object, **__: object) -> Tensor:
    return site.deltas


def _no_stages(_: Site, **__: object) -> Fused:
    return ()


def no_data(**_: object) -> Mapping[str, Calibrated | Norm]:
    """Returns no statistics of data: the method looks at weights alone."""
    return {}


def averaged(n: int, **_: object) -> Elsewhere:
    """Says that tensors outside a domain are averaged, with the method's weights if it has any."""
    return Elsewhere("linear")


def _parameter(entry: inspect.Parameter, doc: str) -> Parameter:
    """Reads one keyword of a method's signature; an annotation outside the closed list is a programming error."""
    kind, bounds = entry.annotation, Bounds()
    default = REQUIRED if entry.default is inspect.Parameter.empty else entry.default
    if get_origin(kind) is Annotated:
        kind, bounds = get_args(entry.annotation)
    if get_origin(kind) is Literal:
        return Parameter(entry.name, "choice", default, bounds, tuple(get_args(kind)), doc)
    names: dict[Any, Literal["float", "int", "bool"]] = {float: "float", Tensor: "float", int: "int", bool: "bool"}
    if kind not in names or entry.kind is not inspect.Parameter.KEYWORD_ONLY:
        raise TypeError(f"parameter {entry.name}: {kind} is not one of the kinds a method may take")
    return Parameter(entry.name, names[kind], default, bounds, (), doc)


def _docs(text: str) -> dict[str, str]:
    """Reads the lines ``name: meaning`` under `Args:` of a docstring."""
    found: dict[str, str] = {}
    current = None
    inside = False
    for line in text.splitlines():
        if line.strip() == "Args:":
            inside = True
        elif inside and line.startswith("    "):
            head, colon, rest = line.strip().partition(": ")
            if colon and head.isidentifier() and not line.startswith("        "):
                current = head
                found[head] = rest
            elif current:
                found[current] += " " + line.strip()
        elif line.strip():
            inside = False
    return found


def _wrap(
    combines: bool,
    paper: Paper,
    needs: Needs,
    laws: Laws,
    folds: Callable[..., Mapping[str, Statistic]],
    calibrated: Callable[..., Mapping[str, Calibrated | Norm]],
    fused: Callable[..., Fused] | None,
    vary: Callable[..., Needs] | None,
    elsewhere: Callable[..., Elsewhere],
    extras: tuple[Extra, ...] = (),
    specialise: Specialise | None = None,
    generators: Callable[..., Tensor] | None = None,
) -> Callable[[Callable[Concatenate[Site, P], Made]], Method[P]]:
    if bool(extras) != (specialise is not None):
        raise TypeError("a method declares extras and how a task's tensor comes back from them, or neither")

    def wrapper(function: Callable[Concatenate[Site, P], Made]) -> Method[P]:
        docs = _docs(inspect.getdoc(function) or "")
        entries = list(inspect.signature(function).parameters.values())[1:]
        parameters = tuple(_parameter(entry, docs.get(entry.name, "")) for entry in entries)
        name = function.__name__
        declared = (paper, laws, needs, vary, folds, calibrated, fused, elsewhere, parameters, extras, specialise)
        return Method(name, function, combines, *declared, generators)

    return wrapper


def combine(
    paper: Paper,
    *,
    needs: Needs,
    laws: Laws,
    folds: Callable[..., Mapping[str, Statistic]] = no_folds,
    calibrated: Callable[..., Mapping[str, Calibrated | Norm]] = no_data,
    fused: Callable[..., Fused] | None = None,
    vary: Callable[..., Needs] | None = None,
    elsewhere: Callable[..., Elsewhere] = averaged,
    extras: tuple[Extra, ...] = (),
    specialise: Specialise | None = None,
    generators: Callable[..., Tensor] | None = None,
) -> Callable[[Callable[Concatenate[Site, P], Made]], Method[P]]:
    """Declares a method that makes one tensor `(*shape)` of n, and with `extras` something for each model besides."""
    others = (elsewhere, extras, specialise, generators)
    return _wrap(True, paper, needs, laws, folds, calibrated, fused, vary, *others)


def transform(
    paper: Paper,
    *,
    needs: Needs,
    laws: Laws,
    folds: Callable[..., Mapping[str, Statistic]] = no_folds,
    calibrated: Callable[..., Mapping[str, Calibrated | Norm]] = no_data,
    fused: Callable[..., Fused] | None = None,
    vary: Callable[..., Needs] | None = None,
) -> Callable[[Callable[Concatenate[Site, P], Made]], Method[P]]:
    """Declares a method that keeps the n models: it returns their new deltas, `(n, *shape)`."""
    return _wrap(False, paper, needs, laws, folds, calibrated, fused, vary, averaged)
