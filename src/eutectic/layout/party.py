"""A checkpoint in a comparison: its tensors under the reference's names, and what stands in for what."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.spec import TensorSpec
from eutectic.layout.families import tied_words
from eutectic.layout.infer import infer, nearest_embedding
from eutectic.layout.layout import Layout
from eutectic.layout.packed import code_sentence, packed
from eutectic.layout.roles import Role


@dataclass(frozen=True)
class Party:
    """A checkpoint under the reference's names.

    Attributes:
        checkpoint: as it was opened.
        header: its tensors by the reference's names; `spec.name` stays the file's own.
    """

    checkpoint: Checkpoint
    header: Mapping[str, TensorSpec]

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.checkpoint.reference

    @cached_property
    def layout(self) -> Layout:
        """What its names mean, by the file's own names."""
        return infer(self.checkpoint.source.header, self.checkpoint.config)

    @cached_property
    def tied(self) -> bool:
        """Whether its head is its word embedding."""
        return bool(tied_words(self.checkpoint.config))

    @cached_property
    def codes(self) -> Mapping[str, str]:
        """Why codes and their scales cannot be merged, by the file's own names."""
        header = self.checkpoint.source.header
        said: dict[str, str] = {}
        for name, scales in packed(header).items():
            said[name] = code_sentence(header[name], scales)
            said |= {scale: f"{scale} gives {name} its meaning and cannot be merged alone" for scale in scales}
        return said

    @cached_property
    def _words(self) -> tuple[str, ...]:
        places = self.layout.places.values()
        return tuple(place.name for place in places if place.role is Role.EMBEDDING and place.block is None)

    def stand_in(self, name: str, reference: Layout) -> TensorSpec | None:
        """Returns the tensor that is loaded under `name` although the file holds it under another name."""
        place = reference.places.get(name)
        if place is None or place.role not in (Role.HEAD, Role.EMBEDDING):
            return None
        head = place.role is Role.HEAD and name.endswith(".weight")
        if head and not self.tied:
            return None
        group = next((group for group in reference.tied if name in group), ())
        found = next((self.header[other] for other in group if other in self.header), None)
        if found is None and head:
            embedding = nearest_embedding(name, self._words)
            found = self.checkpoint.source.header[embedding] if embedding else None
        return found


def renamed(checkpoint: Checkpoint, reference: Checkpoint) -> tuple[Mapping[str, TensorSpec], str | None]:
    """Returns a header under the reference's names when only a prefix separates them (`bert.`, `transformer.`)."""
    header, expected = checkpoint.source.header, reference.source.header
    if not header or 2 * len(header.keys() & expected.keys()) >= min(len(header), len(expected)):
        return header, None
    names = list(header)[:8]
    tried = {(_head(other, name), _head(name, other)) for name in names for other in expected} - {("", "")}
    counted = [(sum(_rename(own, add, strip) in expected for own in header), add, strip) for add, strip in tried]
    shared, add, strip = max(counted, default=(0, "", ""))
    there = {_rename(own, add, strip): spec for own, spec in header.items()}
    if 2 * shared < min(len(header), len(expected)) or len(there) < len(header):
        return header, None
    change = f"lack the prefix '{add}'" if add else f"have the prefix '{strip}', unlike those"
    return there, f"the names of {checkpoint.reference} {change} of {reference.reference}; they are matched so"


def _head(longer: str, shorter: str) -> str:
    return longer.removesuffix(shorter) if longer.endswith(f".{shorter}") else ""


def _rename(name: str, add: str, strip: str) -> str:
    return name.removeprefix(strip) if strip else f"{add}{name}"
