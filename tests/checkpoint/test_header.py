import json

import pytest

from eutectic.checkpoint.header import parse_header, parse_json, printable
from eutectic.errors import CheckpointError
from tests.make.checkpoints import entry


def test_tensors_come_in_the_order_of_their_bytes() -> None:
    """The order of the JSON does not matter; offsets and metadata are kept."""
    text = {
        "__metadata__": {"format": "pt"},
        "b": entry("BF16", [2], 8, 12),
        "empty": entry("F32", [3, 0], 8, 8),
        "a": entry("F32", [2], 0, 8),
    }
    header = parse_header(json.dumps(text).encode() + b"   ", 12, "x")
    assert list(header.tensors) == ["a", "empty", "b"]
    assert header.offsets == {"a": 0, "empty": 8, "b": 8}
    assert header.metadata == {"format": "pt"}
    assert header.tensors["empty"].shape == (3, 0)


def test_a_file_without_tensors_is_legal() -> None:
    """An empty header describes an empty body."""
    assert parse_header(b"{}", 0, "x").tensors == {}


def test_strict_json_refuses_what_lenient_takes() -> None:
    """Repeated keys and Infinity are refused in headers and taken in configs, as transformers takes them."""
    for text in (b'{"a": 1, "a": 2}', b'{"a": Infinity}'):
        with pytest.raises(CheckpointError, match="config: the file"):
            parse_json(text, "config", "the file")
        assert "a" in parse_json(text, "config", "the file", strict=False)


def test_printable() -> None:
    """Lone surrogates and zero characters cannot be written."""
    assert printable("modèle.层")
    assert not printable("a\ud800")
    assert not printable("a\0")
