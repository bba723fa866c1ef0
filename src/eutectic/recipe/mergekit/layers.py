"""Writes what mergekit's settings come to, region by region, where a recipe of ours has it: beside models, or as rules.

mergekit looks a setting up at every tensor: the source, then the slice, the module, the top; the first that says
something wins, and within a list the first filter that is a part of the name. Here later rules win, so conditions are
written from the last to the first, over the unconditional value, which stands with the method, the slice or the model.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeGuard

from eutectic.recipe.document import DocumentError
from eutectic.recipe.mergekit.settings import at

#: A number, a word or a yes or no of ours.
Plain: TypeAlias = bool | int | float | str
#: Parts of names that only tensors in blocks have: filters on them never meet a head or a final norm.
_INSIDE = ("self_attn", "attention", "attn", "mlp", "ffn", "feed_forward", "experts", "layers.", "_proj", "_layernorm")
#: A filter that names a block: `layers.3.mlp` is `layers`, 3 and `.mlp`.
_NUMBERED = re.compile(r"^(.*?(?:layers|layer|blocks|block|h)\.)(\d+)(\..*)?$", re.DOTALL)


@dataclass(frozen=True)
class Region:
    """A run of output tensors that have the same scopes: a slice, with what lies before and behind the blocks.

    Attributes:
        first: its first output block.
        count: its number of blocks; None when it is all of them, however many.
        before: whether it has the tensors before the blocks.
        behind: whether it has those behind.
    """

    first: int
    count: int | None
    before: bool
    behind: bool

    @property
    def blocks(self) -> str | None:
        """Its tensors as a rule's `blocks`; None for all."""
        if self.count is None:
            return None
        inside = f"{self.first}-{self.first + self.count - 1}" if self.count > 1 else str(self.first)
        parts = ("before" if self.before else "", inside if self.count else "", "behind" if self.behind else "")
        return ",".join(part for part in parts if part)

    def positions(self) -> Iterable[tuple[int, float]]:
        """Yields its output blocks, each with its share of the way through the region."""
        for index in range(self.count or 0):
            yield self.first + index, index / (self.count - 1) if self.count and self.count > 1 else 1.0


@dataclass(frozen=True)
class Case:
    """What a parameter is for the tensors whose name contains `filter`, or for all others.

    Attributes:
        filter: a plain part of a name, the input's where a model is meant.
        values: one value, or a gradient over the region.
        shift: output block minus input block, for filters that name a block.
        line: where it is written.
    """

    filter: str | None
    values: tuple[Plain, ...]
    shift: int
    line: int

    @property
    def varies(self) -> bool:
        """Whether it is a gradient."""
        return len(set(self.values)) > 1

    def globs(self, region: Region) -> list[tuple[str | None, str | None]]:
        """Returns the name globs, each with the blocks it is limited to, that stand for the filter in the output."""
        if self.filter is None:
            return [(None, None)]
        found = _NUMBERED.match(self.filter)
        if self.shift == 0 or not re.search(r"\d", self.filter) or (found is None and self.filter[0].isalpha()):
            return [(f"*{escape(self.filter)}*", None)]
        if found is None:
            text = f"the filter {self.filter!r} may mean a block or not, in a slice that renumbers; write layers.N"
            raise DocumentError(self.line, text)
        before, number, after = found[1], found[2], found[3] or ""
        wanted = [block for block, _ in region.positions() if _named(block - self.shift, number, bool(after))]
        return [(f"*{escape(before)}{block}{escape(after) or '.'}*", str(block)) for block in wanted]

    def may_lie_behind(self) -> bool:
        """Whether a tensor behind the blocks can have such a name."""
        return self.filter is None or not any(part in self.filter for part in _INSIDE)


def _named(block: int, number: str, whole: bool) -> bool:
    return str(block) == number if whole else str(block).startswith(number)


def escape(text: str) -> str:
    """Returns a glob that matches just this text."""
    return re.sub(r"([*?\[])", r"[\1]", text)


@dataclass
class Writer:
    """Collects values and rules.

    Attributes:
        regions: of the output, in order.
        mend: give what lies behind the blocks a gradient's last value.
        within: limits everything to tensors that match one of these globs, as rules.
        steps: values that hold everywhere, by our parameter.
        models: values of a model, by model.
        slices: values of a region.
        sources: values of a model in a region.
        rules: the rest, later ones winning.
    """

    regions: Sequence[Region]
    mend: bool
    within: tuple[str, ...] = ()
    steps: dict[str, Plain | list[float]] = field(default_factory=dict)
    models: dict[str, dict[str, Plain | list[float]]] = field(default_factory=dict)
    slices: dict[int, dict[str, Plain]] = field(default_factory=dict)
    sources: dict[tuple[int, str], dict[str, Plain]] = field(default_factory=dict)
    rules: list[dict[str, Any]] = field(default_factory=list)
    trapped: bool = False

    def write(self, target: str, table: Mapping[tuple[int, str | None], tuple[Case, ...]]) -> None:
        """Writes one parameter: its cases by region and model (None: for all), each ending with the unconditional."""
        self.trapped = False
        whole = len(self.regions) == 1 and not self.within
        self._bases(target, table, whole)
        everyone = list(dict.fromkeys(model for _, model in table))
        groups: dict[tuple[tuple[int, tuple[Case, ...]], ...], list[str | None]] = {}
        for model in everyone:
            own = tuple((number, cases) for (number, whose), cases in table.items() if whose == model)
            groups.setdefault(own, []).append(model)
        for own, group in groups.items():
            only = None if len(group) == len(everyone) else [model for model in group if model is not None]
            self._conditions(target, own, only)

    # The unconditional value ------------------------------------------------------------------------------------------

    def _bases(self, target: str, table: Mapping[tuple[int, str | None], tuple[Case, ...]], whole: bool) -> None:
        if self.within:
            return
        bases = {key: self._base(cases[-1], self.regions[key[0]], whole) for key, cases in table.items()}
        if len({repr(value) for value in bases.values()}) == 1:
            self.steps[target] = next(iter(bases.values()))
            return
        for model in dict.fromkeys(model for _, model in bases):
            own = {number: value for (number, whose), value in bases.items() if whose == model}
            if model is not None and len({repr(value) for value in own.values()}) == 1:
                self.models.setdefault(model, {})[target] = next(iter(own.values()))
                continue
            for number, value in own.items():
                assert not isinstance(value, list)  # a gradient stands alone where there is one region
                place = self.slices.setdefault(number, {}) if model is None else self._source(number, model)
                place[target] = value

    def _source(self, number: int, model: str) -> dict[str, Plain]:
        return self.sources.setdefault((number, model), {})

    def _base(self, case: Case, region: Region, whole: bool) -> Plain | list[float]:
        """The value where no rule says otherwise: a gradient as it is where it runs over the whole model."""
        if case.varies and whole and _numeric(case.values):
            return [float(value) for value in case.values]
        return case.values[0]

    # The conditions ---------------------------------------------------------------------------------------------------

    def _conditions(self, target: str, own: tuple[tuple[int, tuple[Case, ...]], ...], only: list[str] | None) -> None:
        alike = len(own) == len(self.regions) and len({cases for _, cases in own}) == 1
        if alike and not any(case.varies or case.shift for case in own[0][1]) and not self.within:
            for case in reversed(own[0][1][:-1]):
                self._rule(target, case.values[0], case.globs(self.regions[0])[0][0], None, only)
            return
        for number, cases in own:
            region = self.regions[number]
            for case in reversed(cases):
                for glob, blocks in case.globs(region):
                    for where, value in self._spread(case, region, plain=case.filter is None and not self.within):
                        limited = where if blocks is None else None if where == "behind" else blocks
                        if limited is not None or blocks is None:
                            self._rule(target, value, glob, limited, only)

    def _spread(self, case: Case, region: Region, *, plain: bool) -> Iterable[tuple[str | None, Plain | list[float]]]:
        """Yields values with the blocks they are for; `plain` leaves out what the unconditional value says already."""
        first, last = case.values[0], case.values[-1]
        alone = len(self.regions) == 1
        if not case.varies:
            if not plain:
                yield None if alone else region.blocks, first
            return
        if alone and _numeric(case.values):
            if not plain:
                yield None, [float(value) for value in case.values]
            if case.may_lie_behind() and region.behind and last != first:
                self.trapped = True
                if not self.mend:
                    yield "behind", first
            return
        if region.count is None:
            text = (
                "a list of words or of true and false needs a known number of blocks; write slices with a layer_range"
            )
            raise DocumentError(case.line, text)
        yield from self._steps(case, region, plain)

    def _steps(self, case: Case, region: Region, plain: bool) -> Iterable[tuple[str | None, Plain]]:
        """One value after another over the blocks of a region."""
        first, last = case.values[0], case.values[-1]
        where: dict[Plain, list[str]] = {}
        if region.before:
            where.setdefault(first, []).append("before")
        for block, position in region.positions():
            value = at(case.values, position) if _numeric(case.values) else case.values[_step(case.values, position)]
            where.setdefault(value, []).append(str(block))
        if region.behind:
            self.trapped |= case.may_lie_behind() and first != last
            where.setdefault(last if self.mend else first, []).append("behind")
        for value, blocks in where.items():
            if not (plain and value == first):
                yield ",".join(blocks), value

    def _rule(
        self, target: str, value: Plain | list[float], glob: str | None, blocks: str | None, only: list[str] | None
    ) -> None:
        matches = [inside + (glob or "*")[1:] if glob and inside.endswith("*") else inside for inside in self.within]
        matches = matches or ([glob] if glob else [])
        rule: dict[str, Any] = {"match": matches[0] if len(matches) == 1 else matches} if matches else {}
        rule |= {} if blocks is None else {"blocks": blocks}
        rule |= {} if only is None else {"models": only}
        if not rule:
            rule["match"] = "*"
        self.rules.append({**rule, "set": {target: value}})


def _numeric(values: Sequence[Plain]) -> TypeGuard[Sequence[float]]:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _step(values: Sequence[Plain], position: float) -> int:
    return int(position * (len(values) - 1))


def joined(rules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Joins rules that select the same tensors, as long as no value comes to stand before one it must follow."""
    found: list[dict[str, Any]] = []
    places: dict[str, int] = {}
    last: dict[str, int] = {}
    for rule in rules:
        where = repr({key: value for key, value in rule.items() if key != "set"})
        place = places.get(where)
        values = rule.get("set", {})
        if place is not None and values and all(last.get(name, -1) <= place for name in values):
            found[place]["set"] = {**found[place]["set"], **values}
        else:
            place = places[where] = len(found)
            found.append(dict(rule))
        last |= dict.fromkeys(values, place)
    return found
