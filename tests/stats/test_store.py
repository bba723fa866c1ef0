import json
from pathlib import Path

import pytest
import torch

from eutectic.errors import CalibrationError, OutputError
from eutectic.stats.store import Outcome, Results, Store

GRAM = torch.tensor([[4.0, 1.0], [1.0, 9.0]])


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Results of two tensors that share one, and of one more in a second part."""
    found = Store(tmp_path).results({"statistic": "gram", "model": "m", "samples": 3, "data": "d"})
    found.write("a", {"q": Outcome(7, 1, GRAM), "k": Outcome(7, 1, None, "q")}, symmetric=True)
    found.write("b", {"w": Outcome(5, 0, torch.arange(6.0).reshape(2, 3))})
    return found


def test_what_is_written_is_read(results: Results, tmp_path: Path) -> None:
    """With rows, axis and energy; a follower reads its leader's; slices of what is not packed; in a new process too."""
    results.finish()
    for found in (results, Store(tmp_path).open(results.digest)):
        assert found.finished
        assert found.names() == ["k", "q", "w"]
        for name in ("q", "k"):
            measured = found.measured(name)
            assert torch.equal(measured.load(), GRAM)
            assert (measured.rows, measured.axis, measured.energy) == (7, 1, 99.0)
        assert found.read("w", 2, 3).tolist() == [2, 3, 4]
        assert found.measured("w").rows == 5


def test_a_digest_covers_every_fact(tmp_path: Path) -> None:
    """Equal facts are one folder, however ordered; any other fact is another."""
    store = Store(tmp_path)
    one = store.results({"a": 1, "b": 2}).digest
    assert store.results({"b": 2, "a": 1}).digest == one
    assert store.results({"a": 1, "b": 3}).digest != one


def test_parts_are_there_or_not(results: Results) -> None:
    """An unfinished folder has some parts; nothing partial is seen."""
    assert results.has("a")
    assert not results.has("c")
    assert not results.finished
    assert [path.name for path in results.folder.iterdir() if path.name.startswith(".")] == []


def test_listed_and_deleted(results: Results, tmp_path: Path) -> None:
    """Entries say what they are; a digest's beginning deletes one; what is no result is let be."""
    (tmp_path / "other").mkdir()
    store = Store(tmp_path)
    (entry,) = store.entries()
    assert (entry.digest, entry.finished, entry.about["model"]) == (results.digest, False, "m")
    with pytest.raises(CalibrationError, match="found none"):
        store.delete("zzz")
    assert store.delete(results.digest[:8]) == entry.nbytes
    assert store.entries() == []
    assert (tmp_path / "other").is_dir()


def test_what_is_damaged_is_named(results: Results, tmp_path: Path) -> None:
    """A cut file, and a tensor that has no result, say what to do."""
    path = results.folder / "b.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    again = Store(tmp_path).open(results.digest)
    with pytest.raises(CalibrationError, match="calibrate again"):
        again.measured("w")
    (results.folder / "b.safetensors").unlink()
    with pytest.raises(CalibrationError, match="holds no result at nothing"):
        Store(tmp_path).open(results.digest).measured("nothing")


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """A file in the folder's place is an error of the output's kind."""
    (tmp_path / "store").write_text("")
    with pytest.raises(OutputError, match="--store"):
        Store(tmp_path / "store").results({}).write("a", {})


def test_about_is_plain_json(results: Results) -> None:
    """What lists and people read."""
    assert json.loads((results.folder / "about.json").read_text())["data"] == "d"
