"""The hidden folder of an output: made, owned, cleared, and put in place in one step."""

from pathlib import Path

import pytest

import eutectic
from eutectic.checkpoint.sidecars import RECEIPT
from eutectic.engine.staging import Staging, finished


def test_finished(tmp_path: Path) -> None:
    """A new or empty place is free; a receipt of the job is returned; anything else is refused and named."""
    out = tmp_path / "out"
    assert finished(out, "job") is None
    out.mkdir()
    assert finished(out, "job") is None
    (out / RECEIPT).write_text('{"job": "job"}')
    assert finished(out, "job") == {"job": "job"}
    with pytest.raises(eutectic.OutputError, match="another job"):
        finished(out, "other")
    for text in ("{", "[1]", "{}"):
        (out / RECEIPT).write_text(text)
        with pytest.raises(eutectic.OutputError, match=f"{out}: expected a new or empty folder"):
            finished(out, "job")


def test_hidden_beside_the_output(tmp_path: Path) -> None:
    """The folder is on the output's own file system, and hidden."""
    staging = Staging(tmp_path / "new" / "out", "job", resume=True)
    assert staging.folder == tmp_path / "new" / ".out.eutectic"
    assert not staging.out.exists()
    staging.close()


def test_publish(tmp_path: Path) -> None:
    """Everything but the journal appears; nothing is left behind."""
    staging = Staging(tmp_path / "out", "job", resume=True)
    (staging.folder / "file").write_text("data")
    staging.publish()
    staging.close()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_an_earlier_run_left(tmp_path: Path) -> None:
    """The same job finds its files, a fresh start clears them, and another job is refused."""
    first = Staging(tmp_path / "out", "job", resume=True)
    (first.folder / "file").write_text("data")
    (first.folder / "folder").mkdir()
    (first.folder / "folder" / "file").write_text("data")
    first.close()
    with pytest.raises(eutectic.OutputError, match=r"another job.*--fresh"):
        Staging(tmp_path / "out", "other", resume=True)
    again = Staging(tmp_path / "out", "job", resume=True)
    assert (again.folder / "folder" / "file").exists()
    again.close()
    fresh = Staging(tmp_path / "out", "job", resume=False)
    assert [path.name for path in fresh.folder.iterdir()] == ["journal"]
    fresh.close()


def test_links_are_cleared_and_not_followed(tmp_path: Path) -> None:
    """A link to a folder among what is left is removed; what it points to stays."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    folder = tmp_path / ".out.eutectic"
    folder.mkdir()
    (folder / "link").symlink_to(precious)
    Staging(tmp_path / "out", "job", resume=True).close()
    assert (precious / "file").read_text() == "mine"
    assert not (folder / "link").is_symlink()


def test_a_file_in_its_place(tmp_path: Path) -> None:
    """A file where the hidden folder should be is an OutputError."""
    (tmp_path / ".out.eutectic").write_text("mine")
    with pytest.raises(eutectic.OutputError):
        Staging(tmp_path / "out", "job", resume=True)
    assert (tmp_path / ".out.eutectic").read_text() == "mine"
