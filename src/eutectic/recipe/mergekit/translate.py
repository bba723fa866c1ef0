"""Writes one document of mergekit's as a recipe of ours: exactly, traps included and named, or mended.

Nothing depends on the models' files. What mergekit knows of an architecture enters in three places only: which tensors
lie before and behind the blocks (our layouts say so when the recipe is planned), the names of a model's modules
(`_MODULES`), and the names that only blocks have (`layers`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from eutectic.errors import nearest
from eutectic.methods import METHODS as OURS
from eutectic.recipe.document import DocumentError
from eutectic.recipe.mergekit.grammar import Document, Module, Piece, Source
from eutectic.recipe.mergekit.layers import Case, Plain, Region, Writer, joined
from eutectic.recipe.mergekit.methods import METHODS, Method, Parameter
from eutectic.recipe.mergekit.settings import Condition, Settings, convert, layered
from eutectic.recipe.mergekit.tokens import write_words
from eutectic.recipe.model import BASE

#: What a module's tensors are called, where the name does not begin with the module's. The first that is there is the
#: one with the blocks that slices cut.
_MAIN = ("text_decoder", "default", "decoder", "")
_MODULES: Mapping[str, tuple[str, ...]] = {
    "vision_tower": ("*vision_tower.*", "*visual.*"),
    "vision_model": ("*vision_model.*",),
    "multi_modal_projector": ("*multi_modal_projector.*", "*visual.merger*", "*visual.deepstack_merger*"),
    "encoder": ("encoder.*", "*.encoder.*"),
    "shared": ("shared.*", "lm_head.*"),
}


#: Layers of an output: more are a mistake or an attack.
_MOST_BLOCKS = 10_000


class Remark(NamedTuple):
    """Something to say of a document: the line, what mergekit does, and what the mended recipe has instead.

    Without `mended` nothing changes; without `said` it depends on the models' files, and the plan says it.
    """

    line: int
    said: str
    mended: str = ""


@dataclass
class Translation:
    """A recipe of ours as plain data, and what is to be said of it."""

    recipe: dict[str, Any]
    remarks: list[Remark] = field(default_factory=list)


def translate(document: Document, stages: Mapping[str, dict[str, Any]] | None = None, *, mend: bool) -> Translation:
    """Writes a document as a recipe.

    Args:
        document: what was read.
        stages: recipes that the document may name as models, by name.
        mend: leave the traps out.

    Raises:
        DocumentError: when mergekit would refuse it, or nothing here says the same.
    """
    return _Translator(document, stages or {}, mend).run()


@dataclass(frozen=True)
class _Run:
    """A region with the sources that feed it, and the settings of its slice, module and document."""

    region: Region
    sources: tuple[Source, ...]
    scopes: tuple[Settings, ...]
    blocks: tuple[int, int] | None


class _Translator:
    def __init__(self, document: Document, stages: Mapping[str, dict[str, Any]], mend: bool) -> None:
        if document.method not in METHODS:
            text = f"unknown method {document.method!r}{nearest(document.method[:99], METHODS)}"
            raise DocumentError(document.lines["merge_method"], text)
        self.document, self.stages, self.mend = document, stages, mend
        self.method: Method = METHODS[document.method]
        self.remarks = [Remark(line, text) for line, text in document.remarks]
        self.base = self._base()
        self.main = next(
            (module for name in _MAIN for module in document.modules if module.name == name), document.modules[0]
        )
        self.runs = self._runs(self.main)
        self.names = self._names()
        #: Models that are merged nowhere, and only give a module of theirs.
        self.silent: set[str] = set()

    @property
    def _alone(self) -> bool:
        """Whether it is a SLERP of two sources, neither of which is the base."""
        return self.document.method == "slerp" and self.base is None

    def run(self) -> Translation:
        """The whole recipe."""
        if self.document.method == "slerp" and self.base in self.stages:
            return self._write(None)
        if self.base in self.stages and self.method.base != "ignored":
            text = f"the base of {self.document.method} is itself a merge; merge it first, and name its folder"
            raise DocumentError(self.document.lines["base_model"], text)
        return self._write(None if self.base in self.stages else self.base)

    def _write(self, base: str | None) -> Translation:
        writer = Writer([run.region for run in self.runs], self.mend)
        self._values(writer, self.runs)
        others = self._other_modules()
        recipe: dict[str, Any] = {} if base is None else {"base": base}
        recipe["models"] = [self._entry(model, writer) for model in self.names]
        recipe["method"] = [self._step(number, writer) for number in range(len(self.method.chain))]
        rules = [*writer.rules, *others]
        if rules:
            recipe["rules"] = [self._ruled(rule) for rule in joined(rules)]
        if self.runs[0].blocks is not None:
            recipe["slices"] = [self._slice(number, run, writer) for number, run in enumerate(self.runs)]
        recipe |= {"missing": "present", "extra": "copy"} | self._types()
        words = write_words(self.document, self.names, base)
        recipe |= words.recipe
        recipe["output"] |= words.output
        self._say_traps(writer)
        return Translation(recipe, sorted(dict.fromkeys(self.remarks)))

    # Inputs -----------------------------------------------------------------------------------------------------------

    def _base(self) -> str | None:
        """The base of all slices: they may say it each, if they say the same."""
        pieces = [piece for module in self.document.modules for piece in module.pieces]
        found = {piece.base or self.document.base for piece in pieces}
        if len(found) > 1:
            text = (
                f"slices with different bases ({', '.join(sorted(map(str, found)))}) are merged one by one; split them"
            )
            raise DocumentError(pieces[0].line, text)
        base = found.pop()
        if self.document.method == "slerp" and all(base not in _models(piece) for piece in pieces) and _cut(pieces):
            text = f"slerp goes from the first source to the second: its base {base} is none of them"
            self.remarks.append(Remark(self.document.lines["base_model"], text))
            return None
        if base is None and self.method.base == "required":
            raise DocumentError(self.document.line, f"{self.document.method} needs a base; add base_model")
        return base

    def _runs(self, module: Module) -> list[_Run]:
        """The regions of the output, in order; where the last has more sources than the first, one more behind."""
        runs: list[_Run] = []
        first = 0
        last = len(module.pieces) - 1
        for number, piece in enumerate(module.pieces):
            sources = self._sources(piece)
            self._check(piece, sources)
            blocks = sources[0].blocks
            count = None if blocks is None else blocks[1] - blocks[0]
            region = Region(first, count, number == 0, number == last)
            runs.append(_Run(region, sources, (piece.settings, module.settings, self.document.settings), blocks))
            first += count or 0
            if first > _MOST_BLOCKS:
                raise DocumentError(piece.line, f"expected at most {_MOST_BLOCKS} layers in all, found {first} so far")
        shown = len(runs[0].sources)
        if len(runs[-1].sources) > shown:
            self._behind(runs, shown)
        return runs

    def _behind(self, runs: list[_Run], shown: int) -> None:
        """What lies behind the blocks comes from as many models of the last slice as the first slice has."""
        end = runs[-1]
        left = ", ".join(source.model for source in end.sources[shown:])
        said = f"lm_head and the final norm leave out {left}: the last slice has more sources than the first"
        self.remarks.append(Remark(end.sources[0].line, said, "they are merged from all sources of the last slice"))
        if self.mend:
            return
        runs[-1] = replace(end, region=replace(end.region, behind=False))
        region = Region(end.region.first + (end.region.count or 0), 0, before=False, behind=True)
        sources = tuple(replace(s, blocks=(s.blocks[1], s.blocks[1])) for s in end.sources[:shown] if s.blocks)
        runs.append(_Run(region, sources, end.scopes, sources[0].blocks))

    def _sources(self, piece: Piece) -> tuple[Source, ...]:
        """A slice's sources, with the base where mergekit adds it: to models, not to slices."""
        if self.base is None or any(source.model == self.base for source in piece.sources):
            return piece.sources
        if piece.sources[0].blocks is None:
            return (*piece.sources, Source(self.base, None, {}, self.document.lines["base_model"]))
        if self.method.base == "ignored":
            return piece.sources
        raise DocumentError(piece.line, f"expected the base {self.base} among the sources of the slice, found none")

    def _check(self, piece: Piece, sources: tuple[Source, ...]) -> None:
        """As many models as the method takes, none twice, all of one length."""
        models = [source.model for source in sources]
        twice = next((source for place, source in enumerate(sources) if source.model in models[:place]), None)
        if twice is not None:
            raise DocumentError(twice.line, f"{twice.model} is a source twice; list it once")
        count = len(self._others(sources))
        low, high = (2, 2) if self._alone else self.method.others
        if count < low or (high is not None and count > high):
            takes = f"exactly {low}" if low == high else f"at least {low}"
            beside = " beside the base" if self.method.base != "ignored" and self.base else ""
            raise DocumentError(piece.line, f"{self.document.method} takes {takes} models{beside}, found {count}")
        lengths = {source.blocks[1] - source.blocks[0] for source in sources if source.blocks}
        if len(lengths) > 1:
            text = f"expected layer ranges of one length in a slice, found {sorted(lengths)}"
            raise DocumentError(piece.line, text)

    def _others(self, sources: Iterable[Source]) -> list[Source]:
        """The sources that are merged: all but the base, where the method knows one."""
        if self.method.base == "ignored":
            return list(sources)
        return [source for source in sources if source.model != self.base]

    def _names(self) -> dict[str, str]:
        """What each entry of `models` is called; a SLERP from a stage has the stage as its first model."""
        start = [self.base] if self.document.method == "slerp" and self.base in self.stages else []
        merged = [source.model for run in self.runs for source in self._others(run.sources)]
        kept = [source.model for module in self.document.modules for piece in module.pieces for source in
                (self._others(piece.sources) if module is not self.main else ())]  # fmt: skip
        found = dict.fromkeys([model for model in start if model] + merged + kept)
        return {model: f"model {model}" if model == BASE else model for model in found}

    def _entry(self, model: str, writer: Writer) -> dict[str, Any]:
        name = self.names[model]
        own: dict[str, Any] = {"recipe": self.stages[model]} if model in self.stages else {"model": model}
        own |= {"name": name} if name != model or model in self.stages else {}
        return own | self._shortened(writer.models.get(name, {})) | ({"weight": 0} if model in self.silent else {})

    # Values -----------------------------------------------------------------------------------------------------------

    def _values(self, writer: Writer, runs: Sequence[_Run]) -> None:
        for parameter in self.method.parameters:
            if parameter.to is None:
                continue
            table: dict[tuple[int, str | None], tuple[Case, ...]] = {}
            for number, run in enumerate(runs):
                if parameter.per == "all" or self.document.method == "passthrough":
                    source = run.sources[0] if parameter.per != "all" else None
                    table[number, None] = self._switched(parameter, run, self._cases(parameter, run, source))
                    continue
                for source in self._others(run.sources):
                    table[number, self.names[source.model]] = self._cases(parameter, run, source)
            for target in (parameter.to, *(() if self.mend else parameter.too)):
                writer.write(target, table)
            if writer.trapped and not writer.within:
                line = min(case.line for cases in table.values() for case in cases)
                said = f"lm_head and the final norm take the first value of the gradient of {parameter.name}"
                self.remarks.append(Remark(line, said, f"they take the last value of {parameter.name}"))

    def _switched(self, parameter: Parameter, run: _Run, cases: tuple[Case, ...]) -> tuple[Case, ...]:
        """The cases of a parameter that another makes mean nothing where it is true; one of the two has no filters."""
        if parameter.unless is None:
            return cases
        switch = self._cases(next(each for each in self.method.parameters if each.name == parameter.unless), run, None)
        if len(switch) == 1 and not switch[0].varies:
            return (replace(switch[0], values=(parameter.off,)),) if switch[0].values[0] else cases
        if len(cases) == 1 and not cases[0].varies:
            words = [tuple(parameter.off if value else cases[0].values[0] for value in each.values) for each in switch]
            return tuple(replace(each, values=values) for each, values in zip(switch, words, strict=True))
        text = f"{parameter.unless} and {parameter.name} both vary over tensors; give one of them a single value"
        raise DocumentError(switch[0].line, text)

    def _cases(self, parameter: Parameter, run: _Run, source: Source | None) -> tuple[Case, ...]:
        scopes = run.scopes if source is None else (source.settings, *run.scopes)
        found = list(layered(parameter.name, scopes))
        if not found or found[-1].filter is not None:
            found.append(self._default(parameter, run, source, bool(found)))
        start = source.blocks if source is not None else None
        shift = run.region.first - start[0] if start is not None else 0
        return tuple(self._case(parameter, condition, shift) for condition in found)

    def _default(self, parameter: Parameter, run: _Run, source: Source | None, some: bool) -> Condition:
        if parameter.default is not None:
            return Condition(None, (parameter.default,), source.line if source else self.document.line)
        where = source.model if source is not None else "parameters"
        line = source.line if source is not None else self.document.lines.get("parameters", self.document.line)
        if some:
            text = f"{where}: no filter gives {parameter.name} to all other tensors; add an entry without filter"
            raise DocumentError(line, text)
        raise DocumentError(line, f"{where}: {self.document.method} needs {parameter.name}, found none")

    def _case(self, parameter: Parameter, condition: Condition, shift: int) -> Case:
        values: tuple[Plain, ...] = convert(condition, parameter.kind, parameter.name)
        words = parameter.mended if self.mend and parameter.mended else parameter.words
        if words is not None:
            values = tuple(words[bool(value)] for value in values)
        if parameter.limits is not None:
            values = tuple(min(max(value, parameter.limits[0]), parameter.limits[1]) for value in values)
        numbered = condition.filter is not None and any(character.isdigit() for character in condition.filter)
        return Case(condition.filter, values, shift if numbered else 0, condition.line)

    def _step(self, number: int, writer: Writer) -> dict[str, Any]:
        step = self.method.chain[number]
        own = {name.partition(".")[2]: value for name, value in writer.steps.items() if _of(name) == step.method}
        fixed = step.mended if self.mend else step.exact
        values = {**fixed, **(step.based if self.base else {}), **own}
        defaults = {parameter.name: parameter.default for parameter in OURS[step.method].parameters}
        return {step.method: {name: value for name, value in values.items() if value != defaults[name]}}

    def _shortened(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {self._short(name): value for name, value in values.items()}

    def _ruled(self, rule: Mapping[str, Any]) -> dict[str, Any]:
        return {**rule, "set": self._shortened(rule["set"])} if "set" in rule else dict(rule)

    def _short(self, name: str) -> str:
        """The bare name of a parameter that one step of the chain has."""
        bare = name.partition(".")[2]
        having = [step for step in self.method.chain if step.method in OURS and OURS[step.method].parameter(bare)]
        return bare if len(having) == 1 else name

    # Slices, modules, output ------------------------------------------------------------------------------------------

    def _slice(self, number: int, run: _Run, writer: Writer) -> dict[str, Any]:
        sources = []
        base = next((source for source in run.sources if source.model == self.base), None)
        for source in self._others(run.sources):
            name = self.names[source.model]
            own = self._shortened(writer.sources.get((number, name), {}))
            sources.append({"model": name, "blocks": list(source.blocks or ()), **own})
        if self.document.method == "slerp" and self.base in self.stages and base is not None:
            sources.insert(0, {"model": self.names[base.model], "blocks": list(base.blocks or ())})
        written: dict[str, Any] = {"sources": sources}
        beside = self.method.base != "ignored" and base is not None and self.base not in self.stages
        if beside and base is not None and base.blocks != self._others(run.sources)[0].blocks:
            written["base_blocks"] = list(base.blocks or ())
        shared = self._shortened(writer.slices.get(number, {}))
        return written | ({"parameters": shared} if shared else {})

    def _other_modules(self) -> list[dict[str, Any]]:
        """Rules for the modules beside the main one: other values of the same models, or one model's tensors."""
        rules: list[dict[str, Any]] = []
        for module in sorted(self.document.modules, key=lambda each: each.name == "multi_modal_projector"):
            if module is self.main:
                continue
            within = _MODULES.get(module.name, (f"{escape_name(module.name)}.*",))
            runs = self._runs(module)
            mine = [source.model for source in self._others(runs[0].sources)]
            same = all(mine == [source.model for source in self._others(run.sources)] for run in self.runs)
            if len(runs) == 1 and runs[0].blocks is None and same:
                writer = Writer([runs[0].region], self.mend, within)
                self._values(writer, runs)
                rules += writer.rules
            elif len(runs) == 1 and runs[0].blocks is None and len(mine) == 1:
                self._beside(mine[0], module)
                rules.append({"match": list(within), "keep": self.names[mine[0]]})
            else:
                text = f"module {module.name}: expected the models of {self.main.name}, or one model, without slices"
                raise DocumentError(module.line, text)
        return rules

    def _beside(self, model: str, module: Module) -> None:
        """A model that only gives a module must weigh nothing elsewhere; without slices it is merged everywhere."""
        merged = {source.model for run in self.runs for source in self._others(run.sources)}
        if self.runs[0].blocks is not None or model in merged:
            return
        if self.document.method != "linear":
            text = f"module {module.name}: {model} is none of the models of {self.main.name}; give that slices"
            raise DocumentError(module.line, text)
        self.silent.add(model)

    def _types(self) -> dict[str, Any]:
        document = self.document
        if document.dtype is not None:
            mended = f"inputs that are not {document.dtype} are merged as they are stored; only the result is rounded"
            self.remarks.append(Remark(document.lines["dtype"], "", mended))
        output = document.out_dtype or document.dtype or "promote"
        read = {"input_dtype": document.dtype} if document.dtype and not self.mend else {}
        return {**read, "output": {"dtype": output}}

    # What is to be said -----------------------------------------------------------------------------------------------

    def _say_traps(self, writer: Writer) -> None:
        method, document = self.document.method, self.document
        known = {parameter.name: parameter for parameter in self.method.parameters}
        for line, name in _written(document):
            if name not in known:
                others = sorted({each.name for other in METHODS.values() for each in other.parameters})
                hint = "" if name in others else nearest(name, known)
                self.remarks.append(Remark(line, f"{method} has no {name}, so it has no effect{hint}"))
            elif known[name].to is None and name != "int8_mask":
                self.remarks.append(Remark(line, f"{name} has no effect in {method}"))
        for trap in self.method.traps:
            given = [line for line, name in _written(document) if name == trap.about]
            if trap.about is None:
                self.remarks.append(Remark(document.lines["merge_method"], f"{method}: {trap.said}", trap.mended))
            elif trap.harmless is None:
                if not given:
                    self.remarks.append(Remark(document.lines["merge_method"], f"{method}: {trap.said}", trap.mended))
            elif self._used(known[trap.about], trap.harmless):
                line = min(given, default=document.lines["merge_method"])
                self.remarks.append(Remark(line, f"{method}: {trap.said}", trap.mended))
        if (
            self.method.base == "ignored"
            and self.base is not None
            and document.modules[0].pieces[0].sources[0].blocks is None
        ):
            line = document.lines.get("base_model", document.line)
            self.remarks.append(Remark(line, f"{method} takes the base as one more model"))

    def _used(self, parameter: Parameter, harmless: Any) -> bool:
        """Whether the parameter has another value somewhere."""
        for run in self.runs:
            sources = [None] if parameter.per == "all" else self._others(run.sources)
            for source in sources:
                for condition in layered(parameter.name, (*([source.settings] if source else []), *run.scopes)):
                    if any(value != harmless for value in convert(condition, parameter.kind, parameter.name)):
                        return True
                    if condition.filter is None:
                        break
                else:
                    if parameter.default != harmless:
                        return True
        return False


def escape_name(name: str) -> str:
    """Returns a glob for a module's own name."""
    return name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")


def _models(piece: Piece) -> list[str]:
    return [source.model for source in piece.sources]


def _cut(pieces: Sequence[Piece]) -> bool:
    return all(source.blocks is not None for piece in pieces for source in piece.sources)


def _of(name: str) -> str:
    return name.partition(".")[0]


def _written(document: Document) -> list[tuple[int, str]]:
    """Every parameter that a document writes, by line."""
    scopes: list[Settings] = [document.settings]
    for module in document.modules:
        scopes.append(module.settings)
        for piece in module.pieces:
            scopes.append(piece.settings)
            scopes += [source.settings for source in piece.sources]
    lines: dict[str, int] = {}
    for scope in scopes:
        for name, setting in scope.items():
            line = setting[0].line if setting else document.line
            lines[name] = min(line, lines.get(name, line))
    return sorted((line, name) for name, line in lines.items())
