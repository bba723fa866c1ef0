"""Which tensors of dense differences an adapter can hold: as factors, or in full, or not at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eutectic.adapters.edits import Edit, Orientations
from eutectic.adapters.sources import DeltaSource
from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.spec import DTYPES, TORCH_NAMES, DType, TensorSpec
from eutectic.errors import MismatchError
from eutectic.layout.layout import Layout
from eutectic.layout.roles import Role
from eutectic.plan.factored import FactorSite, embedded
from eutectic.plan.steps import Dropped
from eutectic.recipe.model import BASE, Recipe
from eutectic.recipe.resolve import Resolver


@dataclass(frozen=True)
class Sorted:
    """What becomes of the tensors that differ.

    Attributes:
        sites: those stored as factors.
        saved: those stored in full: the tensor's name by its key in the output.
        dropped: those left out.
    """

    sites: list[FactorSite]
    saved: Mapping[str, str]
    dropped: tuple[Dropped, ...]

    @property
    def modules(self) -> list[str]:
        """The modules stored in full, by name; those of which only the bias is stored are not among them."""
        return sorted({module for module, _, leaf in self._parts if leaf != "bias"})

    @property
    def biases(self) -> bool:
        """Whether biases of other modules are stored in full."""
        return any(leaf == "bias" and module not in self.modules for module, _, leaf in self._parts)

    @property
    def _parts(self) -> list[tuple[str, str, str]]:
        return [name.rpartition(".") for name in self.saved.values()]


def dense_sites(recipe: Recipe, deltas: Sequence[Checkpoint], base: Checkpoint | None, layout: Layout) -> Sorted:
    """Sorts the tensors of dense differences: weights of linear layers, convolutions and embeddings become factors.

    Raises:
        MismatchError: when others differ as well and the recipe does not say what becomes of them; everything at once.
    """
    resolver = Resolver(recipe)
    known = _edits(deltas)
    turned = Orientations(base.source.header if base is not None else {})
    sites: list[FactorSite] = []
    rest: list[str] = []
    for name, spec in _specs(deltas).items():
        place = layout.places[name]
        if resolver.keep_for(place) == BASE:
            continue
        site = _site(name, spec, known.get(name), place.role, turned, _dtype(recipe, base, name, spec))
        if site is None:
            rest.append(name)
        else:
            sites.append(site)
    return _with_rest(recipe, sites, rest)


def _site(
    name: str, spec: TensorSpec, edit: Edit | None, role: Role, turned: Orientations, dtype: DType
) -> FactorSite | None:
    """Returns a weight as a module with factors; None where PEFT has no such module."""
    module, dot, leaf = name.rpartition(".")
    if edit is not None and edit.pair is not None:
        module, embedding, transposed = edit.module, embedded(edit), edit.pair.transposed
    elif leaf != "weight" or not dot or len(spec.shape) not in (2, 4) or 0 in spec.shape:
        return None
    else:
        embedding = role in (Role.EMBEDDING, Role.POSITION, Role.EMBEDDING_TYPE)
        transposed = embedding or (len(spec.shape) == 2 and turned.of(name))
    rows, columns = spec.shape[0], spec.numel // spec.shape[0]
    shape = (columns, rows) if transposed else (rows, columns)
    kernel = () if transposed else tuple(spec.shape[2:])
    return FactorSite(name, module, shape, kernel, embedding, transposed, (), (), None, dtype)


def _with_rest(recipe: Recipe, sites: list[FactorSite], rest: list[str]) -> Sorted:
    modules = {site.name.rpartition(".")[0] for site in sites}
    policy = recipe.output.rest
    if rest and policy == "drop":
        why = "rest: drop (it is no weight of a linear layer, convolution or embedding)"
        return Sorted(sites, {}, tuple(Dropped(name, why) for name in rest))
    unfit = [name for name in rest if policy == "error" or "." not in name]
    if unfit:
        listed = "\n  ".join(unfit[:20]) + (f"\n  and {len(unfit) - 20} more" if len(unfit) > 20 else "")
        raise MismatchError(
            "factors hold weights of linear layers, convolutions and embeddings; these differ as well:\n  "
            f"{listed}\nset output: rest: save (stored in full) or rest: drop"
        )
    saved = {}
    for name in rest:
        module, _, leaf = name.rpartition(".")
        inner = ".base_layer" if module in modules else ""
        saved[f"base_model.model.{module}{inner}.{leaf}"] = name
    return Sorted(sites, saved, ())


def _edits(deltas: Sequence[Checkpoint]) -> dict[str, Edit]:
    found: dict[str, Edit] = {}
    for each in deltas:
        if isinstance(each.source, DeltaSource):
            for name, edit in each.source.adapter.edits.items():
                if edit.pair is not None and edit.pair.experts == 1:
                    found.setdefault(name, edit)
    return found


def _specs(deltas: Sequence[Checkpoint]) -> dict[str, TensorSpec]:
    found: dict[str, TensorSpec] = {}
    for each in deltas:
        for name, spec in each.source.header.items():
            found.setdefault(name, spec)
    return found


def _dtype(recipe: Recipe, base: Checkpoint | None, name: str, spec: TensorSpec) -> DType:
    if recipe.output.dtype in TORCH_NAMES:
        return DTYPES[TORCH_NAMES[recipe.output.dtype]]
    held = base.source.header.get(name) if base is not None else None
    return spec.dtype if held is None else held.dtype
