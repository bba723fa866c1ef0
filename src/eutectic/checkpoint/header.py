"""The header of a safetensors file: JSON that says where each tensor lies, checked against every rule of the format.

The rules leave no byte of a file unexplained: tensors follow each other without holes or overlap and end where the
file ends, so that nothing can hide in it and no two names can share storage. They are checked on the numbers alone,
before memory is taken for any tensor.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from eutectic.checkpoint.spec import DTYPES, DType, TensorSpec
from eutectic.errors import CheckpointError, nearest

#: The format's own bound on the header, in bytes.
LARGEST_HEADER = 100_000_000
#: Sizes above this do not fit the signed offsets of the operating system.
LARGEST_SIZE = 2**63 - 1
#: More axes than any array library can hold.
MOST_AXES = 64
_KEYS = frozenset(("dtype", "shape", "data_offsets"))


@dataclass(frozen=True)
class Header:
    """What a header says.

    Attributes:
        tensors: every tensor by name, in the order of their bytes.
        offsets: where each begins, in bytes from the end of the header.
        metadata: the free text under `__metadata__`.
    """

    tensors: Mapping[str, TensorSpec]
    offsets: Mapping[str, int]
    metadata: Mapping[str, str]


class _DuplicateKeyError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _DuplicateKeyError(key)
        found[key] = value
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def parse_json(raw: bytes, where: str, what: str, *, strict: bool = True) -> Any:
    """Reads JSON in UTF-8; `where` and `what` name the file and the part for messages.

    A strict reading refuses a key that comes twice, NaN and Infinity. A lenient one takes them as transformers does.

    Raises:
        CheckpointError: when the bytes are anything else.
    """
    try:
        if strict:
            return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
        return json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where}: {what} is not UTF-8 (byte {error.start})") from error
    except _DuplicateKeyError as error:
        raise CheckpointError(f"{where}: {what} has the key '{_shown(str(error))}' twice") from error
    except (ValueError, RecursionError) as error:
        reason = str(error) or "nested too deeply"
        raise CheckpointError(f"{where}: {what} is not valid JSON: {reason}") from error


def printable(name: str) -> bool:
    """Whether a name from JSON is Unicode that can be written: no lone surrogates, no zero character."""
    return "\0" not in name and not any("\ud800" <= character <= "\udfff" for character in name)


def _shown(name: str) -> str:
    # A hostile name may hold lone surrogates or megabytes; a message must survive it.
    text = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= 200 else f"{text[:200]}..."


def _natural(value: object) -> bool:
    # JSON true is an int to Python, and 1.0 equals 1: neither is a size.
    return type(value) is int and 0 <= value <= LARGEST_SIZE


def _shape(value: object, tensor: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(_natural(axis) for axis in value):
        raise CheckpointError(f"{tensor}: expected a shape of whole numbers from 0 to 2^63 - 1, found {value!r:.200}")
    if len(value) > MOST_AXES:
        raise CheckpointError(f"{tensor}: expected a shape of at most {MOST_AXES} axes, found {len(value)}")
    numel = 1
    for axis in value:  # axis by axis: a later 0 must not excuse a product that overflows before it
        numel *= axis
        if numel > LARGEST_SIZE:
            raise CheckpointError(f"{tensor}: the number of elements of shape {value} overflows")
    return tuple(value)


def _dtype(value: object, tensor: str) -> DType:
    if not isinstance(value, str) or value not in DTYPES:
        hint = nearest(value, DTYPES) if isinstance(value, str) else ""
        raise CheckpointError(f"{tensor}: unknown element type {value!r:.200}{hint}")
    return DTYPES[value]


def _entry(name: str, value: object, where: str) -> tuple[TensorSpec, int, int]:
    """Reads one tensor's entry: its spec, first byte and end."""
    tensor = f"{where}: tensor '{_shown(name)}'"
    if not printable(name):
        raise CheckpointError(f"{tensor}: the name is not valid Unicode")
    if not isinstance(value, dict) or value.keys() != _KEYS:
        keys = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise CheckpointError(f"{tensor}: expected dtype, shape and data_offsets, found {keys!r:.200}")
    spec = TensorSpec(name, _shape(value["shape"], tensor), _dtype(value["dtype"], tensor))
    offsets = value["data_offsets"]
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_natural(offset) for offset in offsets):
        raise CheckpointError(f"{tensor}: expected data_offsets of two whole numbers, found {offsets!r:.200}")
    begin, end = offsets
    if begin > end:
        raise CheckpointError(f"{tensor}: data_offsets end at {end}, before they begin at {begin}")
    bits = spec.numel * spec.dtype.bits
    if bits > LARGEST_SIZE:
        raise CheckpointError(f"{tensor}: the size of shape {list(spec.shape)} in {spec.dtype} overflows")
    if bits % 8:
        raise CheckpointError(f"{tensor}: {spec.numel} elements of {spec.dtype} do not fill whole bytes")
    if bits // 8 != end - begin:
        shape = list(spec.shape)
        raise CheckpointError(
            f"{tensor}: shape {shape} in {spec.dtype} takes {bits // 8} bytes, but data_offsets hold {end - begin}"
        )
    return spec, begin, end


def _metadata(value: object, where: str) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise CheckpointError(f"{where}: expected __metadata__ to map text to text, found {value!r:.200}")
    return value


def parse_header(raw: bytes, body: int, where: str) -> Header:
    """Reads a header and checks that its tensors cover the `body` bytes after it exactly.

    Raises:
        CheckpointError: when a rule of the format is broken; the message names `where`, the tensor and the rule.
    """
    if raw[:1] != b"{":
        raise CheckpointError(f"{where}: expected the header to begin with '{{', found {raw[:1]!r}")
    found = parse_json(raw, where, "the header")
    if not isinstance(found, dict):
        raise CheckpointError(f"{where}: expected the header to be a JSON object")
    metadata = _metadata(found.pop("__metadata__", {}), where)
    entries = sorted((_entry(name, value, where) for name, value in found.items()), key=lambda entry: entry[1:])
    _check_cover(entries, body, where)
    tensors = {spec.name: spec for spec, _, _ in entries}
    offsets = {spec.name: begin for spec, begin, _ in entries}
    return Header(tensors, offsets, metadata)


def _check_cover(entries: list[tuple[TensorSpec, int, int]], body: int, where: str) -> None:
    """Checks that tensors in the order of their bytes follow each other from 0 to `body` without hole or overlap."""
    reached = 0
    for spec, begin, end in entries:
        tensor = f"{where}: tensor '{spec.name:.200}'"
        if begin < reached:
            raise CheckpointError(f"{tensor}: begins at byte {begin} and overlaps the tensor before it, to {reached}")
        if begin > reached:
            raise CheckpointError(f"{tensor}: begins at byte {begin} and leaves a hole, since byte {reached}")
        if end > body:
            raise CheckpointError(f"{tensor}: ends at byte {end}, but only {body} bytes follow the header (truncated?)")
        reached = end
    if reached != body:
        raise CheckpointError(f"{where}: {body - reached} bytes after the last tensor belong to no tensor")
