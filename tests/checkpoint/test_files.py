import os
from pathlib import Path

import pytest

from eutectic.checkpoint.files import InputFile, read_text_file
from eutectic.errors import CheckpointError


def test_reads_by_position(tmp_path: Path) -> None:
    """Bytes come from where they were asked for."""
    (tmp_path / "f").write_bytes(bytes(range(100)))
    file = InputFile(tmp_path / "f")
    out = bytearray(10)
    file.read_exactly(memoryview(out), 42)
    assert out == bytes(range(42, 52))
    file.close()


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    """Bytes that were there at opening and are gone at reading are never read as zeros."""
    path = tmp_path / "f"
    path.write_bytes(bytes(100))
    file = InputFile(path)
    os.truncate(path, 50)
    with pytest.raises(CheckpointError, match=r"tensor 'w': the file is shorter than its header said"):
        file.read_exactly(memoryview(bytearray(20)), 40, "w")
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        file.check_unchanged()
    file.close()


def test_closed_files_say_so(tmp_path: Path) -> None:
    """Reading after closing is an error of ours, not of another file that got the same number."""
    path = tmp_path / "f"
    path.write_bytes(bytes(100))
    file = InputFile(path)
    file.close()
    file.close()
    with pytest.raises(CheckpointError, match="closed"):
        file.read_exactly(memoryview(bytearray(1)), 0)
    with pytest.raises(CheckpointError, match="closed"):
        file.check_unchanged()


def test_parked_files_are_open_while_they_are_read(tmp_path: Path) -> None:
    """More of them than a process may have open are read; one that was replaced or removed is not."""
    path = tmp_path / "f"
    path.write_bytes(bytes(range(100)))
    before = len(os.listdir("/proc/self/fd"))
    files = [InputFile(path, parked=True) for _ in range(300)]
    assert len(os.listdir("/proc/self/fd")) == before
    out = bytearray(2)
    for file in files:
        file.read_exactly(memoryview(out), 42)
        assert out == bytes([42, 43])
        file.check_unchanged()
    assert files[0].fingerprint() == InputFile(path).fingerprint()
    path.write_bytes(bytes(99))
    with pytest.raises(CheckpointError, match="changed while"):
        files[0].read_exactly(memoryview(out), 42)
    path.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        files[0].check_unchanged()
    files[0].close()
    with pytest.raises(CheckpointError, match="closed"):
        files[0].read_exactly(memoryview(out), 42)


def test_only_regular_files_open(tmp_path: Path) -> None:
    """A folder, a pipe without writer, a missing file and an impossible name are refused at once."""
    os.mkfifo(tmp_path / "pipe")
    for path, message in [
        (tmp_path, "expected a regular file"),
        (tmp_path / "pipe", "expected a regular file"),
        (tmp_path / "none", "no such file"),
        (tmp_path / "a\0b", "cannot be opened"),
        (tmp_path / ("x" * 300), "cannot be opened"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            InputFile(path)


def test_fingerprint_follows_content_size_and_time(tmp_path: Path) -> None:
    """The same file has the same fingerprint; a changed byte, size or time another."""

    def fingerprint() -> str:
        file = InputFile(path)
        try:
            return file.fingerprint(b"known")
        finally:
            file.close()

    path = tmp_path / "f"
    found = set()
    for content, time in [
        (bytes(10_000), 1),
        (b"\1" + bytes(9_999), 1),
        (bytes(10_001), 1),
        (bytes(10_000), 2),
        (b"", 1),
    ]:
        path.write_bytes(content)
        os.utime(path, ns=(time, time))
        assert fingerprint() == fingerprint()
        found.add(fingerprint())
    assert len(found) == 5


def test_text_files_have_a_limit(tmp_path: Path) -> None:
    """A file larger than the limit is refused before it is read."""
    (tmp_path / "f").write_bytes(b"12345")
    assert read_text_file(tmp_path / "f", 5) == b"12345"
    with pytest.raises(CheckpointError, match="at most 4 bytes"):
        read_text_file(tmp_path / "f", 4)
