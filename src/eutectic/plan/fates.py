"""What becomes of every tensor: merged, copied or dropped, each with its reason; or refused, all at once.

Only headers are looked at. What the recipe's policies allow is applied here; nothing is dropped without being listed.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.spec import DTYPES, TORCH_NAMES, DType, TensorSpec, widest
from eutectic.errors import MismatchError, RecipeError
from eutectic.layout.layout import Place, with_block
from eutectic.layout.match import Kind, Match, Report
from eutectic.layout.roles import Role
from eutectic.layout.stacked import stacked
from eutectic.plan.domains import apply_domains
from eutectic.plan.steps import Copied, Dropped, Feed, Merged
from eutectic.recipe.model import BASE, Recipe
from eutectic.recipe.resolve import ResolvedStep, Resolver


@dataclass
class Fates:
    """The outcome for all tensors, in output order, and every problem found on the way."""

    merged: list[Merged] = field(default_factory=list)
    copied: list[Copied] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    order: list[TensorSpec] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Output:
    """One tensor to be made: its name and place in the output, and the match each input takes it from."""

    place: Place
    name: str
    base: Match | None
    inputs: tuple[tuple[str, Match | None], ...]


class Decider:
    """Decides the fate of every tensor.

    Args:
        recipe: what is asked for.
        report: how the models fit together.
        models: the open models; the base is not among them.
        base: the open base, if there is one.
        stored: by output name, the type that counts as the input's, where a view shows a wider one.
        skip: how many first steps of every chain somebody else has carried out.
    """

    def __init__(
        self,
        recipe: Recipe,
        report: Report,
        models: Sequence[Checkpoint],
        base: Checkpoint | None,
        stored: Mapping[str, DType] | None = None,
        skip: int = 0,
    ) -> None:
        self.recipe, self.report, self.models, self.base, self.skip = recipe, report, models, base, skip
        self.stack = _main_stack(report) if recipe.slices else None
        self.resolver = Resolver(recipe, stack=self.stack)
        self.fates = Fates()
        self._types = stored or {}
        self._index = {name: number for number, name in enumerate(recipe.names)}

    def decide(self) -> Fates:
        """Returns the fates.

        Raises:
            MismatchError: when something does not fit; the message lists everything.
            RecipeError: when a value is missing or out of bounds.
        """
        for output in self._outputs():
            self._one(output)
        problems = list(dict.fromkeys(self.fates.problems))
        if problems:
            problems = [*self.report.causes, *problems]
            shown = "\n  ".join(problems[:20])
            more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
            raise MismatchError(f"the models do not fit together:\n  {shown}{more}")
        return self.fates

    # ---- which tensors there are ------------------------------------------------------------------------------------

    def _outputs(self) -> list[_Output]:
        """Lists the outputs in the reference's order; with slices, the cut stack's blocks are written anew."""
        matches = self.report.matches
        if self.stack is None:
            names = self.recipe.names
            return [
                _Output(match.place, match.name, match if self.base else None, tuple((name, match) for name in names))
                for match in matches.values()
            ]
        outputs: list[_Output] = []
        written = False
        for match in matches.values():
            if match.place.stack != self.stack:
                outputs.append(self._sliced(match.place, match.name))
            elif not written:
                written = True
                outputs += self._blocks()
        return outputs

    def _blocks(self) -> list[_Output]:
        """The outputs of the cut stack: for each block, the tensors its first source has there."""
        assert self.stack is not None
        total = self.resolver.blocks or 0
        by_block: dict[int, list[Match]] = {}
        for match in self.report.matches.values():
            if match.place.stack == self.stack and match.place.block is not None:
                by_block.setdefault(match.place.block, []).append(match)
        outputs = []
        for block in range(total):
            depth = block / (total - 1) if total > 1 else 1.0
            role = next(iter(by_block.values()))[0].place.role
            probe = Place(f"{self.stack}.{block}.", role, self.stack, block, depth)
            source = self.resolver.inputs_for(probe)[0].block
            if source not in by_block:
                raise RecipeError(f"slices: block {source} was asked for; {self.stack} has {len(by_block)} blocks")
            for match in by_block[source]:
                name = with_block(match.name, self.stack, block)
                outputs.append(self._sliced(Place(name, match.place.role, self.stack, block, depth), name))
        return outputs

    def _sliced(self, place: Place, name: str) -> _Output:
        def match_at(block: int | None) -> Match | None:
            if place.stack != self.stack or block is None or self.stack is None:
                return self.report.matches.get(name)
            return self.report.matches.get(with_block(name, self.stack, block))

        inputs = tuple((entry.model, match_at(entry.block)) for entry in self.resolver.inputs_for(place))
        base = match_at(self.resolver.base_block_for(place)) if self.base else None
        return _Output(place, name, base, inputs)

    # ---- what becomes of one ----------------------------------------------------------------------------------------

    def _one(self, output: _Output) -> None:
        match = output.inputs[0][1]
        kinds: Mapping[Kind, str] = match.said if match is not None else {}
        keep = self.resolver.keep_for(output.place)
        if keep is not None:
            self._keep(output, keep)
        elif Kind.TIED_COPY in kinds:
            self._drop(output.name, kinds[Kind.TIED_COPY])
        elif Kind.CODES in kinds:
            self.fates.problems.append(kinds[Kind.CODES])
        elif Kind.EXTRA in kinds:
            self._extra(output, kinds[Kind.EXTRA])
        elif Kind.BUFFER in kinds:
            self._buffer(output)
        elif Kind.SHAPE in kinds:
            self.fates.problems.append(kinds[Kind.SHAPE])
        else:
            self._merge(output, kinds)

    def _keep(self, output: _Output, keep: str) -> None:
        if keep == BASE:
            spec = output.base.base if output.base else None
            source = 0
        else:
            match = next((match for name, match in output.inputs if name == keep), output.inputs[0][1])
            spec = match.held[self._index[keep]] if match is not None else None
            source = self._source(keep)
        if spec is None:
            self.fates.problems.append(f"{output.name}: a rule keeps it from {keep}, which does not have it")
        elif keep != BASE and self.models[self._index[keep]].deltas:
            problem = f"{output.name}: a rule keeps it from {keep}, which is an adapter without weights"
            self.fates.problems.append(problem)
        else:
            self._copy(output.name, spec, source, f"kept from {keep} by a rule")

    def _extra(self, output: _Output, sentence: str) -> None:
        if self.recipe.extra == "error":
            self.fates.problems.append(f"{sentence}; set extra: copy or extra: drop")
        elif self.recipe.extra == "drop":
            self._drop(output.name, f"extra: drop ({sentence})")
        else:
            for name, match in output.inputs:
                spec = match.held[self._index[name]] if match is not None and name != BASE else None
                if spec is not None and not self.models[self._index[name]].deltas:
                    self._copy(output.name, spec, self._source(name), f"extra: copied from {name}")
                    return
            self.fates.problems.append(sentence)

    def _buffer(self, output: _Output) -> None:
        """Whole numbers are not merged: they must be the same everywhere, which the run checks before writing."""
        feeds = []
        specs = []
        if output.base is not None and output.base.base is not None:
            specs.append(output.base.base)
            feeds.append(self._feed(output.base.base, 0))
        for name, match in output.inputs:
            spec = match.held[self._index[name]] if match is not None and name != BASE else None
            if spec is not None and not self.models[self._index[name]].deltas:
                specs.append(spec)
                feeds.append(self._feed(spec, self._source(name)))
        if not feeds:
            self.fates.problems.append(f"{output.name}: no input holds it")
            return
        same = all(spec.shape == specs[0].shape and spec.dtype == specs[0].dtype for spec in specs)
        if not same and self.recipe.buffers == "error":
            kinds = ", ".join(sorted({f"{spec.dtype} {list(spec.shape)}" for spec in specs}))
            problem = f"{output.name}: buffers differ ({kinds}); set buffers: base or keep one by a rule"
            self.fates.problems.append(problem)
            return
        equal = tuple(feeds[1:]) if self.recipe.buffers == "error" else ()
        spec = TensorSpec(output.name, specs[0].shape, specs[0].dtype)
        self.fates.copied.append(Copied(spec, feeds[0], "a buffer, the same in all models", equal))
        self.fates.order.append(spec)

    def _merge(self, output: _Output, kinds: Mapping[Kind, str]) -> None:
        steps = self.resolver.steps_for(output.place)[self.skip :]
        base = output.base.base if output.base else None
        held = [(name, self._held(name, match)) for name, match in output.inputs]
        rows, shape = self._rows(output, base, [spec for _, spec in held], kinds)
        if shape is None:
            return
        feeds: list[Feed | None] = [self._row(output, name, spec, base, rows) for name, spec in held]
        absent = [name for (name, _), feed in zip(held, feeds, strict=True) if feed is None]
        if absent and self.recipe.missing != "present":
            said = kinds.get(Kind.MISSING, f"{output.name}: missing in {', '.join(absent)}")
            self.fates.problems.append(f"{said}; set missing: base or missing: present")
            return
        present = tuple(number for number, feed in enumerate(feeds) if feed is not None)
        models = tuple(feed for feed in feeds if feed is not None)
        if not models:
            self.fates.problems.append(f"{output.name}: no model holds it")
        elif all(feed.zero for feed in models) and base is not None:
            self._copy(output.name, base, 0, "no model changes it")
        else:
            steps = tuple(step.only(present, len(feeds)) for step in steps)
            self._site(output, steps, base, models, shape, kinds)

    def _site(
        self,
        output: _Output,
        steps: tuple[ResolvedStep, ...],
        base: TensorSpec | None,
        models: tuple[Feed, ...],
        shape: tuple[int, ...],
        kinds: Mapping[Kind, str],
    ) -> None:
        applied = apply_domains(steps, output.place.role, shape, len(models))
        steps = applied.steps
        if not steps:
            self._keep_base(output, base, shape, applied.why)
            return
        needs = [step.method.needs_for(dict(step.values)) for step in steps]
        wants_base = any(need.base or (need.base_counts and self.base is not None) for need in needs)
        wants_base = wants_base or any(feed.delta or feed.numel < _numel(shape) for feed in models)
        sources = [each.source() for step in steps for each in step.coefficients.values()]
        wants_base = wants_base or any(source.of == "delta" for source in sources)  # whose norms are of differences
        if wants_base and base is None:
            if self.base is None:  # needed with these options only, or the recipe's check would have said so
                names = ", ".join(step.method.name for step, need in zip(steps, needs, strict=True) if need.base)
                raise RecipeError(f"{output.name}: {names} needs a base with these options; add `base:`")
            names = ", ".join(step.method.name for step in steps)
            self.fates.problems.append(f"{output.name}: {names} needs the base's tensor, and the base lacks it")
            return
        feed = self._feed(base, 0) if wants_base and base is not None else None
        read = base if feed is not None or self.recipe.output.dtype != "promote" else None
        spec = TensorSpec(output.name, shape, self._stored(output.name, read, models))
        for need, step in zip(needs, steps, strict=True):
            count = len(models) + (1 if need.base_counts and feed is not None else 0)
            if count < need.models.low or (need.models.high is not None and count > need.models.high):
                problem = f"{output.name}: {step.method.name} takes {need.models} models, found {count}"
                self.fates.problems.append(problem)
                return
        why, parts = "; ".join(kinds.values()), stacked(output.name, output.place.role, shape)
        self.fates.merged.append(Merged(spec, steps, feed, models, why, applied.why, parts))
        self.fates.order.append(spec)

    def _keep_base(self, output: _Output, base: TensorSpec | None, shape: tuple[int, ...], why: str) -> None:
        if base is None or base.shape != shape:
            found = "lacks it" if base is None else f"has {list(base.shape)} for {list(shape)}"
            self.fates.problems.append(f"{output.name}: {why}, and the base {found}; give it a method by a rule")
        else:
            self._copy(output.name, base, 0, why)

    def _held(self, name: str, match: Match | None) -> TensorSpec | None:
        if match is None:
            return None
        return match.base if name == BASE else match.held[self._index[name]]

    def _row(
        self, output: _Output, name: str, spec: TensorSpec | None, base: TensorSpec | None, rows: int
    ) -> Feed | None:
        """One model's row; None when it lacks the tensor and the policy does not fill it."""
        delta = name != BASE and self.models[self._index[name]].deltas
        source = self._source(name)
        if spec is None:
            if base is not None and (delta or self.recipe.missing == "base"):
                return Feed(source, output.name, base.dtype, rows, delta=True, zero=True)
            return None
        return Feed(source, spec.name, spec.dtype, min(rows, spec.numel), delta=delta)

    def _rows(
        self, output: _Output, base: TensorSpec | None, held: list[TensorSpec | None], kinds: Mapping[Kind, str]
    ) -> tuple[int, tuple[int, ...] | None]:
        """Returns elements and shape of the output, with the vocabulary policy applied."""
        specs = [spec for spec in [base, *held] if spec is not None]
        shapes = {spec.shape for spec in specs}
        if not shapes:
            self.fates.problems.append(f"{output.name}: no input holds it")
            return 0, None
        if len(shapes) == 1:
            return specs[0].numel, specs[0].shape
        if len({shape[1:] for shape in shapes}) > 1 or Kind.VOCABULARY not in kinds:
            found = ", ".join(str(list(shape)) for shape in sorted(shapes))
            self.fates.problems.append(kinds.get(Kind.SHAPE, f"{output.name}: shapes differ: {found}"))
            return 0, None
        if self.recipe.vocabulary.rows == "error":
            self.fates.problems += [*self.report.tokens, kinds[Kind.VOCABULARY]]
            return 0, None
        if self.recipe.vocabulary.rows == "base":
            if base is None or len({spec.dtype for spec in specs}) > 1:
                self.fates.problems.append(f"{output.name}: vocabulary: base needs a base, and one dtype in all models")
                return 0, None
            return base.numel, base.shape
        shape = (min(each[0] for each in shapes), *specs[0].shape[1:])
        return _numel(shape), shape

    # ---- small parts ------------------------------------------------------------------------------------------------

    def _source(self, name: str) -> int:
        offset = 1 if self.base is not None else 0
        return 0 if name == BASE else offset + self._index[name]

    def _feed(self, spec: TensorSpec, source: int) -> Feed:
        return Feed(source, spec.name, spec.dtype, spec.numel)

    def _stored(self, name: str, base: TensorSpec | None, models: tuple[Feed, ...]) -> DType:
        wanted = self.recipe.output.dtype
        if wanted in TORCH_NAMES:
            return DTYPES[TORCH_NAMES[wanted]]
        if wanted == "promote":
            return widest([feed.dtype for feed in models if not feed.delta] + ([base.dtype] if base else []))
        if name in self._types:
            return self._types[name]
        return base.dtype if base is not None else models[0].dtype

    def _copy(self, name: str, spec: TensorSpec, source: int, why: str) -> None:
        """Takes a tensor as it is: its bytes, or one rounding when the output has another float type."""
        feed = self._feed(spec, source)
        wanted = self.recipe.output.dtype
        own = self._types.get(name, spec.dtype)
        stored = DTYPES[TORCH_NAMES[wanted]] if wanted in TORCH_NAMES and spec.dtype.mergeable else own
        out = TensorSpec(name, spec.shape, stored)
        self.fates.copied.append(Copied(out, feed, why))
        self.fates.order.append(out)

    def _drop(self, name: str, why: str) -> None:
        self.fates.dropped.append(Dropped(name, why))


def _numel(shape: tuple[int, ...]) -> int:
    return TensorSpec("", shape, DTYPES["F32"]).numel


def _main_stack(report: Report) -> str:
    """The stack that slices cut: the one nearest to the word embedding (a VLM's text model), else the longest."""
    stacks = report.layout.stacks
    if not stacks:
        raise RecipeError("slices: no numbered blocks were found in the first model's tensor names")
    words = [name for name, place in report.layout.places.items() if place.role is Role.EMBEDDING]

    def nearness(stack: str) -> tuple[int, int]:
        pairs = ([stack.split("."), word.split(".")] for word in words)
        shared = max((len(os.path.commonprefix(pair)) for pair in pairs), default=0)  # noqa: RUF071  of lists: parts
        return shared, stacks[stack]

    return max(stacks, key=nearness)
