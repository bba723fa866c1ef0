"""Pairs the tensors of several models by name and says everything that does not fit, at once, from headers alone.

What to do about a finding is the recipe's policy; each sentence names the setting that would pass.
"""

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.spec import TensorSpec
from eutectic.layout.families import configs, tied_words
from eutectic.layout.layout import Layout, Place
from eutectic.layout.party import Party, renamed
from eutectic.layout.roles import Role
from eutectic.layout.vocabulary import read_tokens, token_sentences


class Kind(enum.StrEnum):
    """What is special about a tensor across the models. A tensor of no kind is simply merged."""

    MISSING = "missing"  # the base has it and some model lacks it
    EXTRA = "extra"  # the base lacks it or, without a base, some model does
    TIED_COPY = "tied copy"  # a second copy of a tensor that the reference keeps once
    STAND_IN = "stand-in"  # some model lacks it and its tied tensor takes its place
    VOCABULARY = "vocabulary"  # the shapes differ in the number of tokens only
    SHAPE = "shape"  # the shapes differ otherwise
    DTYPE = "dtype"  # floats of several types
    CODES = "codes"  # quantised codes or their scales: no arithmetic makes sense
    BUFFER = "buffer"  # integers, truth values or complex numbers


@dataclass(frozen=True)
class Match:
    """One tensor name across the models.

    Attributes:
        name: as the output would call it.
        place: its role and depth, from the first of base and models that has it.
        base: the base's tensor, if there is a base and it has one.
        held: each model's tensor or None; `spec.name` is its name in that model, which may differ.
        said: what is special about it, with a sentence each.
    """

    name: str
    place: Place
    base: TensorSpec | None
    held: tuple[TensorSpec | None, ...]
    said: Mapping[Kind, str]

    @property
    def kinds(self) -> frozenset[Kind]:
        """What is special about it."""
        return frozenset(self.said)


@dataclass(frozen=True)
class Report:
    """How models fit together.

    Attributes:
        models: how messages call the models, in order; the base is not among them.
        base: how messages call the base, if there is one.
        layout: of the reference: the base, else the first model.
        matches: every name of the reference in its order, then the names only others have.
        findings: sentences on the models as a whole: quantisation, prefixes, expert counts, tokenizers.
        causes: those of them that explain why experts do not fit; a refusal says them first.
        tokens: those that say how the tokenizers differ.
    """

    models: tuple[str, ...]
    base: str | None
    layout: Layout
    matches: Mapping[str, Match]
    findings: tuple[str, ...]
    causes: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()

    def of(self, kind: Kind) -> tuple[Match, ...]:
        """Returns the matches of a kind, in order."""
        return tuple(match for match in self.matches.values() if kind in match.said)

    def summary(self, limit: int = 3) -> tuple[str, ...]:
        """Returns the findings, then per kind how many tensors it has and the sentences of the first `limit`."""
        lines = list(self.findings)
        for kind in Kind:
            found = self.of(kind)
            lines += [match.said[kind] for match in found[:limit]]
            if len(found) > limit:
                lines.append(f"{kind}: {len(found) - limit} more tensors")
        return tuple(lines)


def compare(models: Sequence[Checkpoint], base: Checkpoint | None = None, *, tokens: bool = True) -> Report:
    """Compares the headers of n models, and of their base if there is one.

    A source of deltas lacks what it does not change, which is no finding. `tokens`: where numbers of rows differ, the
    tokenizers are read to say which tokens do.
    """
    everyone = [*([base] if base else []), *models]
    reference = everyone[0]
    findings: list[str] = []
    parties: list[Party] = []
    for checkpoint in everyone:
        header, sentence = renamed(checkpoint, reference)
        parties.append(Party(checkpoint, header))
        findings += [sentence] if sentence else []
    findings += [s for checkpoint in everyone if (s := _quantised(checkpoint.reference, checkpoint.config))]
    experts = _experts(parties)
    findings += experts + _ties(parties)
    names = dict.fromkeys(name for party in parties for name in party.header)
    matches = {name: _match(name, parties, base is not None) for name in names}
    said: list[str] = []
    folders = [None if party.checkpoint.deltas else party.checkpoint.folder for party in parties]
    if tokens and (any(Kind.VOCABULARY in match.said for match in matches.values()) or _tokenizers_differ(folders)):
        known = [read_tokens(folder) if folder else None for folder in folders]
        said = token_sentences([party.name for party in parties], known)
    return Report(
        tuple(model.reference for model in models),
        base.reference if base else None,
        parties[0].layout,
        matches,
        (*findings, *said),
        tuple(experts),
        tuple(said),
    )


def _match(name: str, parties: Sequence[Party], has_base: bool) -> Match:
    reference = parties[0]
    specs: list[TensorSpec | None] = []
    stand_ins: list[str] = []
    for party in parties:
        spec = party.header.get(name)
        if spec is None and not party.checkpoint.deltas:
            spec = party.stand_in(name, reference.layout)
            stand_ins += [f"{spec.name} in {party.name}"] if spec else []
        specs.append(spec)
    said = {Kind.STAND_IN: f"{name}: is tied to {', '.join(stand_ins)}, which stands in"} if stand_ins else {}
    said |= _absence(name, parties, specs, has_base)
    present = [(party, spec) for party, spec in zip(parties, specs, strict=True) if spec is not None]
    said |= _shapes(name, present) | _types(name, present)
    owner, first = next((party, spec) for party, spec in present if name in party.header)
    place = owner.layout.places[first.name]
    held = tuple(specs[1:] if has_base else specs)
    return Match(name, place, specs[0] if has_base else None, held, said)


def _absence(
    name: str, parties: Sequence[Party], specs: Sequence[TensorSpec | None], has_base: bool
) -> dict[Kind, str]:
    pairs = list(zip(parties, specs, strict=True))
    lacking = [party.name for party, spec in pairs if spec is None and not party.checkpoint.deltas]
    if not lacking:
        return {}
    holding = ", ".join(party.name for party, spec in pairs if spec is not None)
    if _tied_copy(name, parties, specs):
        return {Kind.TIED_COPY: f"{name}: {holding} stores its embedding twice; {parties[0].name} keeps it once"}
    if has_base and specs[0] is not None:
        return {
            Kind.MISSING: f"{name}: missing from {', '.join(lacking)}; "
            "`missing: base` takes the base's, `missing: present` merges those that have it"
        }
    without = ", ".join(lacking)
    if _own_head(name, parties, specs):
        return {Kind.EXTRA: f"{name}: {holding} has a head of its own, {without} ties it to the embedding; "
                "`extra: copy` keeps the head, `extra: drop` drops it"}  # fmt: skip
    return {Kind.EXTRA: f"{name}: {holding} has it, {without} does not; `extra: copy` keeps it, `extra: drop` drops it"}


def _own_head(name: str, parties: Sequence[Party], specs: Sequence[TensorSpec | None]) -> bool:
    """Whether the reference ties its head and another model has a head that is not tied."""
    if specs[0] is not None or not parties[0].tied:
        return False
    return any(
        party.layout.places[party.header[name].name].role is Role.HEAD for party in parties if name in party.header
    )


def _tied_copy(name: str, parties: Sequence[Party], specs: Sequence[TensorSpec | None]) -> bool:
    """Whether the reference lacks a head that it ties, and whoever has it ties it too."""
    holders = [party for party, spec in zip(parties, specs, strict=True) if spec is not None]
    if specs[0] is not None or not parties[0].tied:
        return False
    return all(
        any(spec.name in group for group in party.layout.tied)
        for party in holders
        if (spec := party.header.get(name)) is not None
    )


def _shapes(name: str, present: Sequence[tuple[Party, TensorSpec]]) -> dict[Kind, str]:
    if len({spec.shape for _, spec in present}) < 2:
        return {}
    listed = ", ".join(f"{list(spec.shape)} in {party.name}" for party, spec in present)
    axes = {party.layout.vocabulary.get(spec.name) for party, spec in present}
    axis = axes.pop() if len(axes) == 1 else None
    if axis is not None and len({_without(spec.shape, axis) for _, spec in present}) == 1:
        return {
            Kind.VOCABULARY: f"{name}: the models have different numbers of tokens: {listed}; "
            "`vocabulary: {tokenizer: union}` matches them by token, `vocabulary: truncate` keeps the common rows, "
            "`vocabulary: base` takes the base's beyond each model's own"
        }
    return {Kind.SHAPE: f"{name}: shapes differ: {listed}; merge models of one architecture and size"}


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


def _types(name: str, present: Sequence[tuple[Party, TensorSpec]]) -> dict[Kind, str]:
    codes = [f"{party.name}: {party.codes[spec.name]}" for party, spec in present if spec.name in party.codes]
    if codes:
        return {Kind.CODES: "; ".join(codes)}
    said: dict[Kind, str] = {}
    if all(spec.dtype == present[0][1].dtype for _, spec in present) and present[0][1].dtype.mergeable:
        return said
    listed = ", ".join(f"{spec.dtype} in {party.name}" for party, spec in present)
    if any(not spec.dtype.mergeable for _, spec in present):
        said[Kind.BUFFER] = f"{name}: {listed} is no float and is copied, not merged; `buffers: base` takes the base's"
    if len({spec.dtype for party, spec in present if not party.checkpoint.deltas}) > 1:
        said[Kind.DTYPE] = f"{name}: {listed}"
    return said


def _quantised(name: str, config: Mapping[str, Any]) -> str | None:
    for part in configs(config):
        said = part.get("quantization_config") or part.get("compression_config")
        if isinstance(said, Mapping):
            how = said.get("quant_method", "unnamed")
            return f"{name}: its config says quantization_config of method {how}; merge its unquantised weights"
    return None


def _tokenizers_differ(folders: Iterable[Path | None]) -> bool:
    """Whether tokenizer files differ; as many rows may still be other tokens, so then they are compared."""
    paths = [folder / "tokenizer.json" for folder in dict.fromkeys(folders) if folder is not None]
    try:
        return len({path.read_bytes() for path in paths if path.is_file()}) > 1
    except OSError:
        return True  # reading their tokens says what is wrong


def _experts(parties: Iterable[Party]) -> list[str]:
    """Says when the models have different numbers of experts, or keep them one by one in one and stacked in another."""
    counts: dict[str, int] = {}
    apart: dict[bool, str] = {}
    for party in parties:
        found = ((re.search(r"\.experts?\.(\d+\.)?", name), spec.shape) for name, spec in party.header.items())
        inside = [(place[1], shape) for place, shape in found if place]
        numbers = [int(number[:-1]) + 1 for number, _ in inside if number]
        stacked = [shape[0] for number, shape in inside if not number and len(shape) == 3]
        if (numbers or stacked) and not party.checkpoint.deltas:
            counts[party.name] = max([*numbers, *stacked])
            apart.setdefault(bool(numbers), party.name)
    said = []
    if len(apart) > 1:
        said.append(
            f"{apart[False]} keeps its experts stacked in one tensor, {apart[True]} apart one by one; "
            "save one as the other is"
        )
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} in {name}" for name, count in counts.items())
        said.append(
            f"the models have different numbers of experts: {listed}; their experts and routers cannot be merged"
        )
    return said


def _ties(parties: Sequence[Party]) -> list[str]:
    """Says when some models tie their head to the embedding and others do not: the output can only do one."""
    said = {p.name: tied for p in parties if (tied := tied_words(p.checkpoint.config)) is not None}
    if len(set(said.values())) < 2:
        return []
    names = [", ".join(name for name, tied in said.items() if tied is which) for which in (True, False)]
    return [f"{names[0]} ties head and embedding, {names[1]} does not; the output does as {parties[0].name} does"]
