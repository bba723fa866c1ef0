"""What a recipe must mean, checked without any checkpoint: every problem at once, each with the key it is about."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from eutectic.errors import RecipeError, nearest
from eutectic.layout.roles import Role
from eutectic.methods import METHODS
from eutectic.methods.declare import REQUIRED, Domain
from eutectic.recipe.calibration import for_model
from eutectic.recipe.chain import Bound, ambiguous, bind_loosely, check_value, miscount, owners
from eutectic.recipe.model import BASE, ModelEntry, Output, Recipe, Rule, Slice, Step
from eutectic.recipe.values import Coefficient, NanWeights, Value, show
from eutectic.recipe.vocabulary import JOINED

Key = tuple[str | int, ...]
#: Stages within stages: more is a mistake or an attack.
DEEPEST_STAGE = 16
#: How many names a message's nearest one is sought among.
MOST_CHOICES = 100
#: Beyond these nobody reads on, and a hostile recipe has no end of them.
MOST_PROBLEMS = 1000


class Problem(NamedTuple):
    """Something wrong: the key it is about, from the top of the recipe, and what was expected and found."""

    key: Key
    text: str


def check(recipe: Recipe) -> None:
    """Checks everything about a recipe that needs no checkpoint.

    Raises:
        RecipeError: with all problems, one a line.
    """
    refuse(problems(recipe))


def refuse(found: Sequence[Problem]) -> None:
    """Raises RecipeError with all problems, one a line, if there are any."""
    if found:
        raise RecipeError("\n".join(f"{dotted(problem.key)}: {problem.text}" for problem in found))


def dotted(key: Key) -> str:
    """Prints a key as people write it: `models[0].weight`."""
    text = ""
    for step in key:
        if step != "parameters":
            text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.lstrip(".") or "recipe"


def problems(recipe: Recipe, *, complete: bool = True) -> list[Problem]:
    """Returns all problems; with `complete=False` nothing that is absent, for a recipe whose broken parts were cut."""
    return list(islice(_Checker(recipe, complete).run(), MOST_PROBLEMS))


class _Checker:
    """The checks of one recipe; stages get their own."""

    def __init__(self, recipe: Recipe, complete: bool, stage: int = 0) -> None:
        self.recipe, self.complete, self.stage = recipe, complete, stage
        self.places: dict[str, int] = {}
        for place, name in enumerate(recipe.names):
            self.places.setdefault(name, place)
        self.references = Counter(entry.model for entry in recipe.models)
        #: Every chain by where it is written; None where a method is unknown and nothing is near.
        self.chains: dict[Key, Bound | None] = {("method",): bind_loosely(recipe.method)}
        for place, rule in enumerate(recipe.rules):
            if rule.method is not None:
                self.chains["rules", place, "method"] = bind_loosely(rule.method)

    def run(self) -> Iterator[Problem]:
        """Yields the problems, roughly in the order of the dialect."""
        yield from self.models()
        written = {("method",): self.recipe.method} | {
            ("rules", place, "method"): rule.method for place, rule in enumerate(self.recipe.rules) if rule.method
        }
        for key, chain in written.items():
            yield from self.chain(key, chain)
        for place, entry in enumerate(self.recipe.models):
            for name, value in entry.parameters.items():
                yield from self.setting(("models", place, "parameters", name), name, value, one_model=True)
        for place, piece in enumerate(self.recipe.slices):
            yield from self.slice(("slices", place), piece)
        for place, rule in enumerate(self.recipe.rules):
            yield from self.rule(("rules", place), rule)
        yield from self.form()
        yield from self.policies()
        yield from self.calibration()
        yield from self.anchors()
        if self.complete:
            yield from self.absent()

    # Models and stages ------------------------------------------------------------------------------------------------

    def models(self) -> Iterator[Problem]:
        """Names that clash, and the stages within."""
        for place, (name, entry) in enumerate(zip(self.recipe.names, self.recipe.models, strict=True)):
            if name == BASE:
                yield Problem(("models", place), "the name 'base' means the recipe's base; give the model another name")
            if self.places[name] < place:
                text = f"two models are called {show(name)}; tell them apart with `name:`"
                yield Problem(("models", place), text)
            if entry.recipe is not None:
                yield from self.stage_of(("models", place, "recipe"), entry)

    def stage_of(self, key: Key, entry: ModelEntry) -> Iterator[Problem]:
        """The problems of a recipe within this one."""
        inner = entry.recipe
        if inner is None:
            return
        if self.stage >= DEEPEST_STAGE:
            yield Problem(key, f"expected at most {DEEPEST_STAGE} recipes within one another, found more")
            return
        sized = {"form", "rank", "error"} if inner.output.form == "adapter" else set()
        if inner.output.model_copy(update={k: getattr(Output(), k) for k in sized}) != Output():
            text = (
                "only the outermost recipe writes an output; of a stage's, form: adapter, rank and error have a meaning"
            )
            yield Problem((*key, "output"), text)
        for problem in _Checker(inner, self.complete, self.stage + 1).run():
            yield Problem(key + problem.key, problem.text)

    def known(self, key: Key, reference: str, *, base: bool = True) -> Iterator[Problem]:
        """A name that should be a model's, or `base`."""
        if base and reference == BASE:
            if self.recipe.base is None and self.complete:
                yield Problem(key, "expected a model, found 'base', and the recipe names no base; add `base:`")
        elif reference not in self.places and self.references[reference] != 1:
            choices = [*list(self.places)[:MOST_CHOICES], *([BASE] if base else [])]
            hint = nearest(reference, choices)
            if self.references[reference]:
                hint = "; several models have this reference, use their names"
            listed = ", ".join(choices[:9]) + (", ..." if len(choices) > 9 else "")
            yield Problem(key, f"expected one of the models ({listed}), found {show(reference)}{hint}")

    # Chains and settings ----------------------------------------------------------------------------------------------

    def chain(self, key: Key, steps: Sequence[Step]) -> Iterator[Problem]:
        """Transforms, then one combine; known methods with known parameters."""
        bound = self.chains[key]
        before: set[str] = set()
        for place, step in enumerate(steps):
            if step.method not in METHODS:
                text = f"unknown method {show(step.method)}{nearest(step.method, METHODS)}"
                yield Problem((*key, place, "method"), text)
            if step.method in before:
                yield Problem((*key, place), f"{step.method} is in the chain twice; a chain has a method once")
            before.add(step.method)
            if bound is None:
                continue
            method, last = bound[place].method, place == len(steps) - 1
            if method.needs.domain is Domain.FACTORS and place:
                yield Problem((*key, place), f"{method.name} works on stored factors; put it first in the chain")
            if method.combines and not last:
                yield Problem((*key, place), f"{method.name} makes one model of all; only the last of a chain may")
            if last and not method.combines:
                combines = ", ".join(name for name, other in METHODS.items() if other.combines)
                text = f"{method.name} keeps the models apart; end the chain with one of {combines}"
                yield Problem((*key, place), text)
            for name, value in step.parameters.items():
                yield from self.fits((*key, place, "parameters", name), (bound[place],), name, value)

    def setting(self, key: Key, name: str, value: Value, *, one_model: bool) -> Iterator[Problem]:
        """A value of a model, slice or rule: of a parameter that some chain has, and not of two steps at once."""
        if None in self.chains.values():
            return
        chains = [chain for chain in self.chains.values() if chain is not None]
        having = [chain for chain in chains if owners(chain, name)]
        shared = [own for chain in having for _, own in owners(chain, name) if not own.bounds.per_model]
        if not having:
            yield Problem(key, _unknown(name, chains, ModelEntry.model_fields if one_model else ()))
        elif one_model and len(shared) == sum(len(owners(chain, name)) for chain in having):
            yield Problem(key, f"{name} is one value for all models; write it with the method, or set it by a rule")
        elif one_model and isinstance(value, Coefficient):
            yield Problem(key, f"a source of weights is for all models at once; write {name} with the method")
        else:
            clashes = [clash for chain in having if (clash := ambiguous(chain, name))]
            if clashes:
                yield Problem(key, clashes[0])
                return
            told: set[str] = set()
            for chain in having:
                for problem in self.fits(key, chain, name, value):
                    if problem.text not in told:
                        told.add(problem.text)
                        yield problem

    def fits(self, key: Key, chain: Bound, name: str, value: Value) -> Iterator[Problem]:
        """A value against the declarations it would reach."""
        found = owners(chain, name)
        if not found:
            yield Problem(key, _unknown(name, [chain], ()))
        if isinstance(value, NanWeights) and value.of == "delta" and self.recipe.base is None and self.complete:
            yield Problem(key, "norms of differences need a base; add `base:`, or use `of: finetuned`")
        for place, parameter in found:
            if isinstance(value, Coefficient) and chain[place].method.needs.domain is Domain.FACTORS:
                yield Problem(key, f"{chain[place].method.name} sees factors, which a source of weights cannot measure")
                continue
            try:
                check_value(chain[place].method, parameter, value)
            except RecipeError as error:
                yield Problem(key, str(error))

    # Slices, rules, policies ------------------------------------------------------------------------------------------

    def slice(self, key: Key, piece: Slice) -> Iterator[Problem]:
        """Known sources, all of one length."""
        length = piece.sources[0].length
        runs = [((*key, "sources", place), source.blocks) for place, source in enumerate(piece.sources)]
        runs += [] if piece.base_blocks is None else [((*key, "base_blocks"), piece.base_blocks)]
        for where, (start, stop) in runs:
            where = where if where[-1] == "base_blocks" else (*where, "blocks")
            if stop < start:
                yield Problem(where, f"expected a start that is not above the end, found [{start}, {stop}]")
            elif stop - start != length >= 0:
                text = f"expected {length} blocks as in the slice's first source, found {stop - start}"
                yield Problem(where, text)
        for place, source in enumerate(piece.sources):
            yield from self.known((*key, "sources", place, "model"), source.model)
            for name, value in source.parameters.items():
                where = (*key, "sources", place, "parameters", name)
                yield from self.setting(where, name, value, one_model=True)
        for name, value in piece.parameters.items():
            yield from self.setting((*key, "parameters", name), name, value, one_model=False)

    def rule(self, key: Key, rule: Rule) -> Iterator[Problem]:
        """Known models, roles and parameters; one thing to do, somewhere to do it."""
        for reference in rule.models or ():
            yield from self.known((*key, "models"), reference, base=False)
        roles = list(dict.fromkeys([role.value for role in Role] + [role.value.split(".")[0] for role in Role]))
        for pattern in rule.role or ():
            if not any(role.matches(pattern) for role in Role):
                branches = ", ".join(role for role in roles if "." not in role)
                hint = nearest(pattern, roles) or f"; roles begin with {branches}"
                text = f"no role matches {show(pattern)}{hint}"
                yield Problem((*key, "role"), text)
        for name, value in rule.set.items():
            yield from self.setting((*key, "set", name), name, value, one_model=rule.models is not None)
        if rule.keep is not None:
            yield from self.known((*key, "keep"), rule.keep)
            if rule.method is not None or rule.set:
                yield Problem((*key, "keep"), "a kept tensor is not merged; remove keep, or set and method")
        if rule.models is not None and (rule.method is not None or rule.keep is not None):
            yield Problem((*key, "models"), "models limits `set` alone; a tensor has one method, and is kept whole")
        if not self.complete:
            return
        if rule.match is None and rule.role is None and rule.blocks is None and rule.models is None:
            yield Problem(key, "expected a selector (match, role, blocks or models), found none; match: '*' means all")
        if not rule.set and rule.keep is None and rule.method is None:
            yield Problem(key, "expected set, keep or method, found none: the rule changes nothing")

    def form(self) -> Iterator[Problem]:
        """What is written: an adapter's size belongs to an adapter, and differences know no blocks of other models."""
        output = self.recipe.output
        for key in ("rank", "error", "rest"):
            if getattr(output, key) != getattr(Output(), key) and output.form != "adapter":
                yield Problem(("output", key), f"{key} is an adapter's; write form: adapter beside it")
        if output.form != "model" and self.recipe.slices:
            yield Problem(("slices",), f"slices make a model of other blocks, which is no {output.form} of the base")
        if output.form != "model" and output.tokenizer is not None:
            yield Problem(("output", "tokenizer"), f"expected form: model, found {output.form}, which has no tokenizer")

    def policies(self) -> Iterator[Problem]:
        """Policies that lean on a base, and the tokenizer's donor."""
        if self.recipe.output.tokenizer is not None:
            yield from self.known(("output", "tokenizer"), self.recipe.output.tokenizer)
        policies = {key: getattr(self.recipe, key) for key in ("missing", "buffers")}
        for key, policy in (policies | {"vocabulary": self.recipe.vocabulary.rows}).items():
            if policy == BASE and self.recipe.base is None and self.complete:
                yield Problem((key,), f"{key}: base needs a base; add `base:`, or choose another policy")
        yield from self.vocabulary()

    def vocabulary(self) -> Iterator[Problem]:
        """The models that a policy by token names."""
        policy = self.recipe.vocabulary
        if not policy.by_token:
            return
        if policy.rows != "error":
            yield Problem(("vocabulary",), f"rows are {policy.rows} or matched by token, not both; remove one")
        if self.stage:
            yield Problem(("vocabulary",), "only the outermost recipe writes a tokenizer; match its tokens there")
        if self.recipe.output.tokenizer is not None:
            text = "the vocabulary says whose tokenizer it is; remove one of them"
            yield Problem(("output", "tokenizer"), text)
        if policy.tokenizer is not None and policy.tokenizer not in JOINED:
            for problem in self.known(("vocabulary", "tokenizer"), policy.tokenizer):
                hint = nearest(policy.tokenizer, JOINED)
                yield Problem(problem.key, f"{problem.text}{hint or ', or one of ' + ', '.join(JOINED)}")
        for token, source in policy.tokens.items():
            if source.model is not None:
                yield from self.known(("vocabulary", "tokens", token, "model"), source.model)

    def calibration(self) -> Iterator[Problem]:
        """Data for every model, and for none that there is not."""
        said = self.recipe.calibration
        if said is None:
            return
        if self.stage:
            yield Problem(
                ("calibration",), "expected calibration in the outermost recipe alone; merge this stage first"
            )
        tables = {"data": said.data, "samples": said.samples}
        tables |= {} if said.head is None else {"head": said.head.files}
        for key, table in tables.items():
            for name in table:
                if name != "*":
                    yield from self.known(("calibration", key), name, base=False)
            if key == "data" and "*" not in table and self.complete:
                for name in self.recipe.names:
                    if for_model(table, name) is None and self.recipe.find(name) is not None:
                        yield Problem(
                            ("calibration", key), f"expected data for every model, found none for {show(name)}"
                        )

    def anchors(self) -> Iterator[Problem]:
        """What a refinement by anchors needs, and what does not go with it."""
        said, recipe = self.recipe.anchors, self.recipe
        if said is None:
            return
        if self.complete and recipe.base is None:
            yield Problem(("anchors",), "expected a base, from which task vectors are taken; found none")
        if recipe.output.form != "model":
            yield Problem(
                ("anchors",), f"expected output.form model, found {recipe.output.form}; extract it afterwards"
            )
        if recipe.slices or recipe.calibration is not None:
            text = "slices" if recipe.slices else "calibration"
            yield Problem(("anchors",), f"{text} and anchors go into two recipes; merge the one first")
        if said.start == "models":
            step, *more = recipe.method
            known = step.parameters.get("weight"), step.parameters.get("scale", 1)
            plain = all(isinstance(each, int | float) and not isinstance(each, bool) for each in known)
            own = recipe.rules or any(entry.parameters for entry in recipe.models)
            if more or step.method != "task_arithmetic" or not plain or own:
                text = "expected method task_arithmetic alone, with one number as weight, for start: models"
                yield Problem(("anchors", "start"), text)

    def absent(self) -> Iterator[Problem]:
        """What is missing: a base, models, sources, required values."""
        for key, chain in self.chains.items():
            for place, bound in enumerate(chain or ()):
                where = (*key, place)
                # Differences are merged around zeros, so adapters that stay adapters need no base.
                if bound.method.needs.base and self.recipe.base is None and self.recipe.output.form == "model":
                    yield Problem(where, f"{bound.method.name} needs a base; add `base:`")
                for site, count, base in self.counts(where):
                    text = miscount(bound.method, count, base)
                    if text:
                        yield Problem(site, text)
        yield from self.required()
        used = {self.recipe.find(source.model) for piece in self.recipe.slices for source in piece.sources}
        used |= {self.recipe.find(rule.keep) for rule in self.recipe.rules if rule.keep is not None}
        if self.recipe.slices and not any(piece.sources[0].length for piece in self.recipe.slices):
            yield Problem(("slices",), "expected a slice of one block or more, found none")
        for place, name in enumerate(self.recipe.names if self.recipe.slices else ()):
            if place not in used:
                yield Problem(("models", place), f"no slice reads {show(name)}; add a source, or remove the model")

    def counts(self, key: Key) -> Iterator[tuple[Key, int, bool]]:
        """Where it is written how many models meet in this chain, that number, and whether a base is beside them.

        Which slices a rule meets is known only with the tensors.
        """
        base = self.recipe.base is not None
        if not self.recipe.slices:
            yield key, len(self.recipe.models), base
        elif key[0] == "method":
            for place, piece in enumerate(self.recipe.slices):
                among = any(source.model == BASE for source in piece.sources)
                yield ("slices", place, "sources"), len(piece.sources), base and not among

    def required(self) -> Iterator[Problem]:
        """Values that nobody gives anywhere."""
        chain = self.chains["method",]
        elsewhere = [rule.set for rule in self.recipe.rules]
        for piece in self.recipe.slices:
            elsewhere += [piece.parameters, *(source.parameters for source in piece.sources)]
        for bound in chain or ():
            for parameter in bound.method.parameters:
                names = {parameter.name, f"{bound.method.name}.{parameter.name}"}
                if parameter.default is not REQUIRED or parameter.name in bound.step.parameters:
                    continue
                if any(names & set(given) for given in elsewhere):
                    continue
                for place, entry in enumerate(self.recipe.models):
                    if not parameter.bounds.per_model or not names & set(entry.parameters):
                        text = f"{bound.method.name} needs a {parameter.name}, found none"
                        yield Problem(("models", place) if parameter.bounds.per_model else ("method",), text)
                        if not parameter.bounds.per_model:
                            break


def _unknown(name: str, chains: Sequence[Bound], fields: object) -> str:
    """Says that no method of the chains has the parameter, with the nearest that one has."""
    bare = [parameter.name for chain in chains for bound in chain for parameter in bound.method.parameters]
    methods = ", ".join(dict.fromkeys(bound.method.name for chain in chains for bound in chain))
    if name.rpartition(".")[2] == "lambda" and "scale" in bare:
        return f"unknown parameter {show(name)} of {methods}; what papers call lambda is called scale"
    full = [f"{bound.method.name}.{own.name}" for chain in chains for bound in chain for own in bound.method.parameters]
    hint = nearest(name, [*bare, *full, *(fields if isinstance(fields, dict) else ())])
    known = f"; it has {', '.join(dict.fromkeys(bare))}" if bare and not hint else hint
    return f"unknown parameter {show(name)} of {methods}{known}"
