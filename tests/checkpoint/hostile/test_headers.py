"""Files that break a rule of the safetensors format: refused on opening, by file, tensor and rule."""

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import load

from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.checkpoint.spec import DTYPES
from eutectic.errors import CheckpointError
from tests.make.checkpoints import entry, raw_bytes, read, write_file


def tensor(begin: Any, end: Any, shape: Any = (1,), dtype: Any = "F32") -> dict[str, Any]:
    """Returns the header of one tensor `w`."""
    return {"w": entry(dtype, shape, begin, end)}


GOOD = tensor(0, 4)
BIG = 2**63

CASES: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "expected at least the 8 bytes"),
    "seven bytes": (b"\2" + bytes(6), "expected at least the 8 bytes"),
    "length without header": (bytes(8), "begin with '{'"),
    "length bomb": (raw_bytes(b"{}", length=2**40), "above the format's 100000000"),
    "largest length": (raw_bytes(b"{}", length=2**64 - 1), "above the format's 100000000"),
    "length beyond file": (raw_bytes(b"{}", length=3), "only 2 follow"),
    "length cuts header": (raw_bytes(GOOD, bytes(4), length=10), "not valid JSON"),
    "leading space": (raw_bytes(b" {}"), "begin with '{'"),
    "list": (raw_bytes(b"[]"), "begin with '{'"),
    "not JSON": (raw_bytes(b"{]"), "not valid JSON"),
    "two documents": (raw_bytes(b"{}{}"), "not valid JSON"),
    "not UTF-8": (raw_bytes(b'{"\xff": 1}'), "not UTF-8"),
    "UTF-16": (raw_bytes("{}".encode("utf-16-le")), "not valid JSON"),
    "deep nesting": (raw_bytes(b'{"w":' + b"[" * 100_000), "not valid JSON"),
    "huge number": (raw_bytes(b'{"w":' + b"9" * 5000 + b"}"), "not valid JSON"),
    "NaN": (raw_bytes(b'{"w": NaN}'), "NaN is not JSON"),
    "tensor twice": (raw_bytes(b'{"w": 1, "w": 2}'), "has the key 'w' twice"),
    "key twice": (raw_bytes(b'{"w": {"dtype": "F32", "dtype": "F64"}}'), "has the key 'dtype' twice"),
    "metadata twice": (raw_bytes(b'{"__metadata__": {}, "__metadata__": {}}'), "has the key '__metadata__' twice"),
    "metadata list": (raw_bytes({"__metadata__": []}), "__metadata__ to map text to text"),
    "metadata null": (raw_bytes({"__metadata__": None}), "__metadata__ to map text to text"),
    "metadata number": (raw_bytes({"__metadata__": {"a": 1}}), "__metadata__ to map text to text"),
    "metadata nested": (raw_bytes({"__metadata__": {"a": {"b": "c"}}}), "__metadata__ to map text to text"),
    "entry null": (raw_bytes({"w": None}), "expected dtype, shape and data_offsets"),
    "entry list": (raw_bytes({"w": ["F32", [1], [0, 4]]}, bytes(4)), "expected dtype, shape and data_offsets"),
    "key missing": (raw_bytes({"w": {"dtype": "F32", "shape": [1]}}), "expected dtype, shape and data_offsets"),
    "key unknown": (raw_bytes({"w": GOOD["w"] | {"scale": 2}}, bytes(4)), "expected dtype, shape and data_offsets"),
    "lone surrogate": (raw_bytes(b'{"\\ud800": {}}'), "not valid Unicode"),
    "name with zero": (raw_bytes(b'{"a\\u0000b": {}}'), "not valid Unicode"),
    "type unknown": (raw_bytes(tensor(0, 4, dtype="FP32"), bytes(4)), "unknown element type 'FP32'; did you mean"),
    "type lower case": (raw_bytes(tensor(0, 4, dtype="f32"), bytes(4)), "unknown element type 'f32'"),
    "type list": (raw_bytes(tensor(0, 4, dtype=["F32"]), bytes(4)), "unknown element type"),
    "shape negative": (raw_bytes(tensor(0, 4, [-1]), bytes(4)), "expected a shape of whole numbers"),
    "shape two negatives": (raw_bytes(tensor(0, 4, [-1, -1]), bytes(4)), "expected a shape of whole numbers"),
    "shape float": (raw_bytes(tensor(0, 4, [1.0]), bytes(4)), "expected a shape of whole numbers"),
    "shape bool": (raw_bytes(tensor(0, 4, [True]), bytes(4)), "expected a shape of whole numbers"),
    "shape text": (raw_bytes(tensor(0, 4, ["1"]), bytes(4)), "expected a shape of whole numbers"),
    "shape null": (raw_bytes({"w": {"dtype": "F32", "shape": None, "data_offsets": [0, 4]}}), "expected a shape"),
    "shape of 65 axes": (raw_bytes(tensor(0, 4, [1] * 65), bytes(4)), "at most 64 axes"),
    "axis overflows": (raw_bytes(tensor(0, 4, [BIG]), bytes(4)), "expected a shape of whole numbers"),
    "product overflows": (raw_bytes(tensor(0, 4, [2**32, 2**32]), bytes(4)), "number of elements .* overflows"),
    "product wraps to 1": (raw_bytes(tensor(0, 4, [2**33, 2**31, 1]), bytes(4)), "number of elements .* overflows"),
    "product overflows to 0": (raw_bytes(tensor(0, 0, [2**62, 4, 0])), "number of elements .* overflows"),
    "bytes overflow": (raw_bytes(tensor(0, 4, [2**62]), bytes(4)), "the size of shape .* overflows"),
    "offsets missing": (raw_bytes({"w": {"dtype": "F32", "shape": [1], "data_offsets": []}}), "two whole numbers"),
    "offsets three": (raw_bytes({"w": GOOD["w"] | {"data_offsets": [0, 4, 8]}}, bytes(8)), "two whole numbers"),
    "offsets negative": (raw_bytes(tensor(-4, 0), bytes(4)), "two whole numbers"),
    "offsets float": (raw_bytes(tensor(0.0, 4.0), bytes(4)), "two whole numbers"),
    "offsets huge": (raw_bytes(tensor(BIG, BIG + 4), bytes(4)), "two whole numbers"),
    "offsets backwards": (raw_bytes(tensor(4, 0), bytes(4)), "end at 0, before they begin at 4"),
    "too few bytes": (raw_bytes(tensor(0, 4, [2]), bytes(4)), "takes 8 bytes, but data_offsets hold 4"),
    "too many bytes": (raw_bytes(tensor(0, 8), bytes(8)), "takes 4 bytes, but data_offsets hold 8"),
    "0-d without bytes": (raw_bytes(tensor(0, 0, [])), "takes 4 bytes, but data_offsets hold 0"),
    "half a byte": (raw_bytes(tensor(0, 2, [3], "F4"), bytes(2)), "3 elements of F4 do not fill whole bytes"),
    "six bits": (raw_bytes(tensor(0, 1, [1], "F6_E2M3"), bytes(1)), "do not fill whole bytes"),
    "truncated body": (raw_bytes(GOOD, bytes(2)), "ends at byte 4, but only 2 bytes follow"),
    "no body": (raw_bytes(GOOD), "ends at byte 4, but only 0 bytes follow"),
    "trailing bytes": (raw_bytes(GOOD, bytes(6)), "2 bytes after the last tensor belong to no tensor"),
    "bytes without tensors": (raw_bytes({}, b"PK\3\4"), "4 bytes after the last tensor"),
    "hole at the start": (raw_bytes(tensor(4, 8), bytes(8)), "leaves a hole"),
    "hole between": (
        raw_bytes(GOOD | {"v": entry("F32", [1], 8, 12)}, bytes(12)),
        "'v': begins at byte 8 and leaves a hole",
    ),
    "overlap": (raw_bytes({"u": entry("F32", [2], 0, 8), "v": entry("F32", [1], 4, 8)}, bytes(8)), "'v': .* overlaps"),
    "alias": (raw_bytes({f"t{n}": entry("F32", [2], 0, 8) for n in range(10)}, bytes(8)), "'t1': .* overlaps"),
    "empty inside another": (raw_bytes(GOOD | {"v": entry("F32", [0], 2, 2)}, bytes(4)), "'v': .* overlaps"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(tmp_path: Path, case: str) -> None:
    """Each broken file is refused with its path and the rule, and the reference reader is no stricter than ours."""
    content, message = CASES[case]
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"(?s)hostile\.safetensors: .*{message}") as error:
        SafetensorsFile(path)
    assert len(str(error.value)) < 1000


def test_legal_oddities(tmp_path: Path) -> None:
    """0-d and empty tensors, an empty name, padding, NaN values and unsorted JSON are all within the rules."""
    header = {
        "b": entry("F32", [], 4, 8),
        "": entry("F32", [0, 2**40], 4, 4),
        "a": entry("F32", [1], 0, 4),
        "end": entry("F64", [0], 8, 8),
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw_bytes(json.dumps(header).encode() + b"   ", b"\xff" * 8))
    source = SafetensorsFile(path)
    assert set(source.header) == set(header)
    assert read(source, "b").tobytes() == b"\xff" * 4
    source.close()


def test_nothing_is_allocated_for_a_lie(tmp_path: Path) -> None:
    """A header that promises a terabyte costs no more memory to refuse than its own text."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw_bytes(tensor(0, 2**40, [2**38]), bytes(4)))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="only 4 bytes follow"):
        SafetensorsFile(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000


def test_truncation_while_reading(tmp_path: Path) -> None:
    """A file cut after it was opened is an error, not zeros."""
    path = write_file(tmp_path / "x.safetensors", {"w": np.ones(1000)})
    source = SafetensorsFile(path)
    os.truncate(path, path.stat().st_size - 8)
    out = np.zeros(8000, np.uint8)
    with pytest.raises(CheckpointError, match="tensor 'w': the file is shorter than its header said"):
        source.read_into("w", 0, out)
    source.close()


numbers = st.one_of(st.integers(-1, 9), st.sampled_from([2**31, 2**32, 2**62, 2**63, 2**64, 1.0, True, None, "1"]))
entries = st.one_of(
    st.fixed_dictionaries(
        {
            "dtype": st.one_of(st.sampled_from(sorted(DTYPES)), st.text(max_size=3)),
            "shape": st.lists(numbers, max_size=3),
            "data_offsets": st.lists(numbers, min_size=1, max_size=3),
        }
    ),
    st.none(),
    st.lists(numbers),
)


@given(
    st.one_of(
        st.binary(max_size=60),
        st.dictionaries(st.text(max_size=3), entries, max_size=4).map(lambda header: json.dumps(header).encode()),
    ),
    st.binary(max_size=20),
    st.one_of(st.none(), st.integers(0, 120), st.integers(0, 2**64 - 1)),
)
@example(b"{}", b"", None)
def test_any_bytes_open_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, header: bytes, body: bytes, length: int | None
) -> None:
    """Whatever the bytes, it ends in our error or in an open file; what we open, the reference reader opens too."""
    content = raw_bytes(header, body, length)
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.write_bytes(content)
    message = None
    try:
        source = SafetensorsFile(path)
    except CheckpointError as error:
        message = str(error)
    if message is not None:
        assert "fuzz.safetensors" in message
        return
    for name, spec in source.header.items():
        assert read(source, name).size == spec.nbytes
    source.close()
    agreed(content)


@given(st.data())
def test_mutated_files_open_or_are_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A right file with a few bytes changed, removed or added: refused, or right in another way."""
    content = bytearray(
        raw_bytes(GOOD | {"v": entry("BF16", [2, 2], 4, 12), "e": entry("I64", [0], 12, 12)}, bytes(12))
    )
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    path.write_bytes(content)
    try:
        source = SafetensorsFile(path)
    except CheckpointError:
        return
    for name, spec in source.header.items():
        assert read(source, name).size == spec.nbytes
    source.close()
    agreed(bytes(content))


def agreed(content: bytes) -> None:
    """Checks that the `safetensors` package opens these bytes too; types numpy lacks are not its refusal."""
    try:
        load(content)
    except (KeyError, AttributeError, TypeError):
        pass
    except SafetensorError as error:
        raise AssertionError(f"we opened what the reference reader refuses: {error}") from error
