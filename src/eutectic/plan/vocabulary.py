"""Brings models of different vocabularies to the output's: each becomes a view with a row for each of its tokens.

What a recipe's `vocabulary` says is applied here, from tokenizer files and headers. Whatever follows, methods included,
sees models of one vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.spec import DType, TensorSpec
from eutectic.errors import RecipeError, nearest
from eutectic.layout.match import Match, compare
from eutectic.layout.roles import Role
from eutectic.numerics.transplant import interpolate, project, pursue
from eutectic.plan.parties import Party, party_of, special_numbers
from eutectic.recipe.model import BASE, Recipe
from eutectic.recipe.vocabulary import JOINED, Fill, TokenSource
from eutectic.tokens.joined import Joined, join
from eutectic.tokens.pieces import Pieced, split
from eutectic.tokens.predicted import Guide, Predict, Predicted
from eutectic.tokens.rows import FILLED, MEAN, PADDING, PREDICTED, Given, Ids, Prediction, Rows, TokenRows, shown_type
from eutectic.tokens.tokenizer import rewritten


@dataclass(frozen=True)
class Bridge:
    """The inputs in the output's vocabulary, and what the output must say of it.

    Attributes:
        base: the base, if there is one.
        models: the models.
        stored: by output name, the type that rows are stored in, where the views show a wider one.
        owner: the model whose tokenizer the output's is made from.
        files: tokenizer files that differ from the owner's.
        rows: how many rows the embeddings have.
        numbers: the output's number of each token of the model whose config the output has, by its number there.
        named: by config key (`eos_token_id` ...), what the owner says, when its config is not the output's.
        reserved: bytes that tables of rows and predicted rows hold.
        notes: sentences on what was done.
    """

    base: Checkpoint | None
    models: tuple[Checkpoint, ...]
    stored: Mapping[str, DType]
    owner: Checkpoint
    files: Mapping[str, bytes]
    rows: int
    numbers: Mapping[int, int]
    named: Mapping[str, Any]
    reserved: int
    notes: tuple[str, ...]


def bridge(
    recipe: Recipe, base: Checkpoint | None, models: Sequence[Checkpoint], donor: Checkpoint | None
) -> Bridge | None:
    """Returns the inputs by the output's tokens; None when the recipe's vocabulary policy is not by token.

    Raises:
        CheckpointError: when a tokenizer is missing or cannot be read.
        MismatchError: when an input has no rows for its tokens.
        RecipeError: when a token or a model that the policy names does not exist.
    """
    return _Bridging(recipe, base, models, donor).run() if recipe.vocabulary.by_token else None


class _Bridging:
    """The work of `bridge`."""

    def __init__(
        self, recipe: Recipe, base: Checkpoint | None, models: Sequence[Checkpoint], donor: Checkpoint | None
    ) -> None:
        self.recipe, self.policy, self.base, self.models = recipe, recipe.vocabulary, base, models
        called: list[tuple[Checkpoint, tuple[str, ...]]] = [(base, (BASE, str(recipe.base)))] if base else []
        called += [
            (each, (name, str(entry.model)))
            for each, name, entry in zip(models, recipe.names, recipe.models, strict=True)
        ]
        self.report = compare(models, base, tokens=False)
        # An adapter's differences are numbered as its base is, whatever files lie beside them.
        whole = [(each, names) for each, names in called if not each.deltas]
        self.parties = [party_of(each, names) for each, names in whole]
        self.donor = party_of(donor, ("donor",)) if donor is not None else None
        self.joined = self._join()
        self.tokens = len(self.joined.tokens)
        step = self.policy.pad_to_multiple_of or 1
        self.total = -(-self.tokens // step) * step
        everyone = [*self.parties, *([self.donor] if self.donor else [])]
        self.ids = {id(each): self._ids_in(each) for each in everyone}
        self.notes: list[str] = []
        self.reserved = 0

    def run(self) -> Bridge:
        """Does it."""
        tables: dict[int, dict[str, Rows]] = {}
        stored: dict[str, DType] = {}
        for match in sorted(self.report.matches.values(), key=lambda match: match.place.role is not Role.EMBEDDING):
            self._tensor(match, tables, stored)
        inputs = [*([self.base] if self.base else []), *self.models]
        closing = (self.donor.checkpoint.source,) if self.donor else ()
        hub = self.donor.checkpoint.hub if self.donor else ()
        shown = []
        for place, each in enumerate(inputs):
            extra = closing if place == 0 else ()
            source = TokenRows(each.source, tables.get(id(each), {}), extra)
            shown.append(replace(each, source=source, hub=(*each.hub, *(hub if place == 0 else ()))))
        owner = next(party for party in [*self.parties, self.donor] if party and party.tokenizer is self.joined.owner)
        kept = {id(rows.filled): rows.filled.nbytes for each in tables.values() for rows in each.values()}
        own = sum(rows.own.nbytes for each in tables.values() for rows in each.values())
        self.reserved += own + sum(kept.values())
        files = {} if self.joined.unchanged else rewritten(owner.tokenizer, self.joined.tokens, self.joined.sources)
        self._describe(owner)
        ids, first = self._places, self.parties[0]
        return Bridge(
            shown[0] if self.base else None,
            tuple(shown[1:] if self.base else shown),
            stored,
            owner.checkpoint,
            files,
            self.total,
            {number: ids[token] for token, number in first.tokenizer.tokens.items() if token in ids},
            {} if owner is first else special_numbers(owner, ids),
            self.reserved,
            tuple(self.notes),
        )

    # ---- the vocabulary ---------------------------------------------------------------------------------------------

    def _join(self) -> Joined:
        kind, owner = self.policy.tokenizer or "owner", 0
        parties = list(self.parties)
        if self.donor is not None:
            parties.append(self.donor)
            owner = len(parties) - 1
        elif kind not in JOINED:
            found = next((place for place, party in enumerate(parties) if kind in party.called), None)
            if found is None:
                raise RecipeError(f"vocabulary.tokenizer: {kind} is an adapter, whose tokens are its base's; name that")
            kind, owner = "owner", found
        tokenizers, rows = [party.tokenizer for party in parties], [party.rows for party in parties]
        match = self.policy.match
        joined = join(kind, tokenizers, rows, owner=owner, match=match)
        known = {token for token in joined.tokens if token is not None}
        more = [token for token in self.policy.tokens if token not in known]
        return join(kind, tokenizers, rows, owner=owner, more=more, match=match) if more else joined

    def _ids_in(self, party: Party) -> Ids:
        ids = np.full(self.total, -1, np.int32)
        ids[: self.tokens] = self.joined.ids_in(party.tokenizer, party.rows, self.policy.match)
        return ids

    # ---- one tensor -------------------------------------------------------------------------------------------------

    def _tensor(self, match: Match, tables: dict[int, dict[str, Rows]], stored: dict[str, DType]) -> None:
        """Adds the rows of one tensor, for every input that has it."""
        inputs = [*([self.base] if self.base else []), *self.models]
        specs = [*([match.base] if self.base else []), *match.held]
        by_input = {id(each): spec for each, spec in zip(inputs, specs, strict=True)}
        held = [
            (party, spec)
            for party in self.parties
            if (spec := by_input[id(party.checkpoint)]) is not None and party.axis(spec.name) is not None
        ]
        if not held:
            return
        given = tuple(Given(party.checkpoint.source, spec.name) for party, spec in held)
        filled, forced = self._filled(held)
        widths = {spec.numel // spec.shape[party.axis(spec.name) or 0] for party, spec in held}
        if len(widths) > 1:
            return  # the merge says that the shapes differ
        stored[match.name] = held[0][1].dtype
        for each, spec in zip(inputs, specs, strict=True):
            if spec is None or spec.name in tables.setdefault(id(each), {}):
                continue
            party = next((party for party, _ in held if party.checkpoint is each), None)
            if party is not None:
                tables[id(each)][spec.name] = self._own(party, spec, given, filled, forced)
            elif each.deltas:
                tables[id(each)][spec.name] = self._delta(spec)

    def _own(self, party: Party, spec: TensorSpec, given: tuple[Given, ...], filled: Ids, forced: Ids) -> Rows:
        """The rows of one input that has weights."""
        own = self.ids[id(party)].copy()
        own[forced] = FILLED
        own[self._unused] = PADDING
        lacking = np.setdiff1d(np.flatnonzero(own == FILLED), self._said).astype(np.int32)
        if self.policy.prefixes:
            lacking = self._prefixes(party, own, lacking)
        prediction: Prediction | None = None
        if self.policy.fill.rule == "mean":
            own[lacking] = MEAN
        elif self.policy.fill.rule == "subword" and len(lacking):
            prediction = self._pieces(party, spec, own, lacking)
        elif self.policy.fill.predicts and len(lacking):
            prediction = self._predict(party, spec, own, lacking)
        missing = own == FILLED
        taken = [
            each.source.header[each.name].dtype
            for place, each in enumerate(given)
            if (filled[missing, place] >= 0).any()
        ]
        computed = bool((own < FILLED).any() or ((filled[missing] >= 0).sum(1) > 1).any())
        dtype = shown_type([spec.dtype, *taken], computed)
        return Rows(self._shape(spec, party.axis(spec.name) or 0, dtype), own, given, filled, prediction)

    def _delta(self, spec: TensorSpec) -> Rows:
        """The rows of an adapter: its base's tokens, and no difference for others."""
        own = self.ids[id(self.parties[0])].copy() if self.parties else np.full(self.total, -1, np.int32)
        axis = len(spec.shape) - 1 if spec.shape[0] == 1 else 0
        own[own >= spec.shape[axis]] = FILLED
        return Rows(self._shape(spec, axis, spec.dtype), own, (), np.empty((self.total, 0), np.int32))

    def _shape(self, spec: TensorSpec, axis: int, dtype: DType) -> TensorSpec:
        return TensorSpec(spec.name, (*spec.shape[:axis], self.total, *spec.shape[axis + 1 :]), dtype)

    @cached_property
    def _unused(self) -> Ids:
        """Rows that no token has: padding, and numbers that the tokenizer leaves out."""
        used = np.zeros(self.total, np.bool_)
        used[: self.tokens] = [token is not None for token in self.joined.tokens]
        return np.flatnonzero(~used).astype(np.int32)

    # ---- rows that a model lacks ------------------------------------------------------------------------------------

    @cached_property
    def _said(self) -> Ids:
        """Numbers of the tokens whose rows the recipe says."""
        return np.array([self._places[token] for token in self.policy.tokens], np.int32)

    @cached_property
    def _places(self) -> dict[str, int]:
        """The output's numbers by token."""
        return {token: number for number, token in enumerate(self.joined.tokens) if token is not None}

    def _filled(self, held: Sequence[tuple[Party, TensorSpec]]) -> tuple[Ids, Ids]:
        """Returns which rows of whom fill each token's row, shape (tokens, holders), and the tokens that are forced."""
        filled = np.full((self.total, len(held)), -1, np.int32)
        if self.policy.fill.rule == "shared":
            for place, (party, _) in enumerate(held):
                filled[:, place] = self.ids[id(party)]
            if self.base is not None and held[0][0].checkpoint is self.base:
                filled[filled[:, 0] >= 0, 1:] = -1
        forced = []
        for token, source in self.policy.tokens.items():
            number = self._places[token]
            filled[number] = -1
            if source.model is not None:
                place, row = self._named(token, source, held)
                filled[number, place] = row
            if source.force:
                forced.append(number)
        return filled, np.array(forced, np.int32)

    def _named(self, token: str, source: TokenSource, held: Sequence[tuple[Party, TensorSpec]]) -> tuple[int, int]:
        """Finds the row that the recipe names for a token."""
        place = next((place for place, (party, _) in enumerate(held) if source.model in party.called), None)
        key = f"vocabulary.tokens.{token}"
        if place is None:
            raise RecipeError(f"{key}: {source.model} has no embedding of its own here; name a model that has")
        party = held[place][0]
        wanted = source.token or token
        row = source.id if source.id is not None else party.tokenizer.tokens.get(wanted)
        if row is None:
            alike = (
                each for each in party.tokenizer.tokens if abs(len(each) - len(wanted)) < 3 and each[0] == wanted[0]
            )
            hint = nearest(wanted, alike)
            raise RecipeError(f"{key}: {source.model} has no token {wanted!r}{hint}")
        if row >= party.rows:
            raise RecipeError(f"{key}: {source.model} has {party.rows} rows, found none of number {row}")
        return place, row

    def _prefixes(self, party: Party, own: Ids, lacking: Ids) -> Ids:
        """Gives tokens the row of their longest beginning that the model has; returns those that have none."""
        known = party.tokenizer.keys("normalised")
        left = []
        for number in lacking:
            key = self.joined.owner.key(str(self.joined.tokens[number]), "normalised")
            starts, text = (key[0], str(key[1])) if len(key) == 2 else (None, "")
            found = (known.get((starts, text[:end]), -1) for end in range(len(text) - 1, 0, -1) if text[:end].strip())
            row = next((row for row in found if 0 <= row < party.rows), -1)
            if row >= 0:
                own[number] = row
            else:
                left.append(number)
        return np.array(left, np.int32)

    def _predict(self, party: Party, spec: TensorSpec, own: Ids, lacking: Ids) -> Predicted | None:
        """Writes the numbers of predicted rows into `own`: each from the first donor that has the token."""
        guides, count = [], 0
        for donor in [*([self.donor] if self.donor else []), *self.parties]:
            name = self._counterpart(donor, spec, party)
            if donor is party or name is None or not len(lacking):
                continue
            theirs = self.ids[id(donor)]
            shared = np.flatnonzero((theirs >= 0) & (self.ids[id(party)] >= 0))
            able = lacking[theirs[lacking] >= 0]
            if not len(shared) or not len(able):
                continue
            shared = shared[np.argsort(theirs[shared], kind="stable")]
            given = Given(donor.checkpoint.source, name)
            guides.append(Guide(given, theirs[shared], self.ids[id(party)][shared], theirs[able]))
            own[able] = PREDICTED - np.arange(count, count + len(able), dtype=np.int32)
            count += len(able)
            lacking = np.setdiff1d(lacking, able).astype(np.int32)
        if not guides:
            return None
        predicted = Predicted(
            Given(party.checkpoint.source, spec.name), guides, _rule(self.policy.fill), repr(self.policy.fill.plain())
        )
        self.reserved += predicted.nbytes
        return predicted

    def _pieces(self, party: Party, spec: TensorSpec, own: Ids, lacking: Ids) -> Pieced:
        """Writes the numbers of rows made of pieces into `own`."""
        texts = [self.joined.owner.text(str(self.joined.tokens[number])) for number in lacking]
        pieces = [tuple(row for row in each if row < party.rows) for each in split(party.tokenizer, texts)]
        ends = "first" if party.layout.places[spec.name].role is Role.HEAD else "last"
        how = self.policy.fill.pieces
        made = Pieced(Given(party.checkpoint.source, spec.name), pieces, ends if how == "ends" else how)
        own[lacking] = PREDICTED - np.arange(len(lacking), dtype=np.int32)
        self.reserved += made.nbytes
        return made

    def _counterpart(self, donor: Party, spec: TensorSpec, party: Party) -> str | None:
        """Returns the donor's tensor of the same role: the same name, else its only one, else its embedding."""
        role = party.layout.places[spec.name].role
        names = [name for name in donor.layout.vocabulary if donor.axis(name) is not None]
        if spec.name in names:
            return spec.name
        alike = [name for name in names if donor.layout.places[name].role is role]
        alike = alike or [name for name in names if donor.layout.places[name].role is Role.EMBEDDING]
        return alike[0] if alike else None

    def _describe(self, owner: Party) -> None:
        """Notes what became of the vocabulary."""
        count = sum(token is not None for token in self.joined.tokens)
        word = self.policy.tokenizer if self.policy.tokenizer in JOINED else "tokens"
        self.notes.append(f"vocabulary: {word} of {owner.checkpoint.reference}: {count} tokens, {self.total} rows")
        for party in self.parties:
            lacking = count - int((self.ids[id(party)] >= 0).sum())
            if lacking:
                how = "single tokens" if self.policy.tokens and lacking <= len(self.policy.tokens) else None
                rule = how or self.policy.fill.rule
                self.notes.append(f"vocabulary: {party.checkpoint.reference} lacks {lacking} tokens, filled by {rule}")
        nobody = np.ones(self.total, np.bool_)
        for ids in self.ids.values():
            nobody &= ids < 0
        named = [token for token, free in zip(self.joined.tokens, nobody, strict=False) if free and token is not None]
        empty = [token for token in named if token not in self.policy.tokens]
        if empty:
            self.notes.append(f"vocabulary: no model has {', '.join(map(repr, empty[:3]))}; its row is zeros")


def _rule(fill: Fill) -> Predict:
    """Returns the function behind a fill that predicts."""
    if fill.rule == "omp":
        return partial(pursue, k=fill.k or 64)
    if fill.rule == "project":
        return partial(project, kind=fill.map, ridge=fill.ridge)
    k = 1 if fill.rule == "nearest" else fill.k or 5
    return partial(interpolate, k=k, weights=fill.weights, distance=fill.distance)
