"""One model under two sets of names: `bert.encoder...` beside `encoder...`, as heads are added and taken off."""

from collections.abc import Mapping

from eutectic.checkpoint.source import Checkpoint
from eutectic.checkpoint.spec import TensorSpec


def renamed(checkpoint: Checkpoint, reference: Checkpoint) -> tuple[Mapping[str, TensorSpec], str | None]:
    """Returns a header under the reference's names when only a prefix separates them (`bert.`, `transformer.`)."""
    header, expected = checkpoint.source.header, reference.source.header
    if not header or 2 * len(header.keys() & expected.keys()) >= min(len(header), len(expected)):
        return header, None
    names = list(header)[:8]
    tried = {(_head(other, name), _head(name, other)) for name in names for other in expected} - {("", "")}
    counted = [(sum(_rename(own, add, strip) in expected for own in header), add, strip) for add, strip in tried]
    shared, add, strip = max(counted, default=(0, "", ""))
    header_there = {_rename(own, add, strip): spec for own, spec in header.items()}
    if 2 * shared < min(len(header), len(expected)) or len(header_there) < len(header):
        return header, None
    change = f"lack the prefix '{add}'" if add else f"have the prefix '{strip}', unlike those"
    return (
        renamed,
        f"the names of {checkpoint.reference} {change} of {reference.reference}; they are matched so",
    )


def _head(longer: str, shorter: str) -> str:
    return longer.removesuffix(shorter) if longer.endswith(f".{shorter}") else ""


def _rename(name: str, add: str, strip: str) -> str:
    return name.removeprefix(strip) if strip else f"{add}{name}"
