"""What is on record survives; what is not is forgotten; what is damaged is not believed."""

import os
from pathlib import Path

import numpy as np
import pytest

import eutectic
from eutectic.engine.journal import Journal


def begun(path: Path, job: str = "job") -> Journal:
    """Returns a new journal of a job."""
    journal = Journal(path, job)
    journal.begin()
    return journal


def test_ranges(tmp_path: Path) -> None:
    """Ranges in any order, adjoining, apart or twice: what is missing are the gaps."""
    journal = begun(tmp_path / "journal")
    assert list(journal.missing("a", 10)) == [(0, 10)]
    for start, stop in ((6, 8), (0, 2), (2, 3), (0, 2)):
        journal.done("a", start, stop)
    journal.done("empty", 0, 0)
    journal.commit(journal.take())
    journal.close()
    again = Journal(tmp_path / "journal", "job")
    assert again.owner == "job"
    assert again.resumes
    assert list(again.missing("a", 10)) == [(3, 6), (8, 10)]
    assert list(again.missing("a", 8)) == [(3, 6)]
    assert list(again.missing("b", 4)) == [(0, 4)]
    assert list(again.missing("empty", 0)) == []
    assert list(again.missing("another empty", 0)) == [(0, 0)]
    again.close()


def test_results_to_the_last_bit(tmp_path: Path) -> None:
    """Every kind of result comes back as it was: infinities, NaN, denormals, shapes."""
    values = {
        "tuple": (0.1, float("inf"), 5e-324, -0.0),
        "array": np.array([[1 / 3, 2e308], [-1e-310, np.nan]]),
        "none": np.zeros((0, 3)),
        "int": -1,
    }
    journal = begun(tmp_path / "journal")
    for key, value in values.items():
        journal.found(key, value)
    journal.commit(journal.take())
    journal.close()
    again = Journal(tmp_path / "journal", "job")
    assert again.result("tuple") == values["tuple"]
    assert str(again.result("tuple")[3]) == "-0.0"
    np.testing.assert_array_equal(again.result("array"), values["array"])
    assert again.result("none").shape == (0, 3)
    assert again.result("int") == -1
    assert again.result("unknown") is None
    again.close()


def test_what_is_not_committed_is_forgotten(tmp_path: Path) -> None:
    """Notes are on record only once taken and committed; taken notes are not taken twice."""
    journal = begun(tmp_path / "journal")
    journal.done("a", 0, 5)
    notes = journal.take()
    journal.done("a", 5, 6)
    assert len(notes) == 1
    journal.commit(notes)
    journal.close()
    again = Journal(tmp_path / "journal", "job")
    assert list(again.missing("a", 10)) == [(5, 10)]
    again.close()


def test_non_finite_counts(tmp_path: Path) -> None:
    """Counts of values that are not finite are kept with their ranges."""
    journal = begun(tmp_path / "journal")
    journal.done("a", 0, 5, 2)
    journal.done("a", 5, 6, 1)
    journal.done("b", 0, 1)
    assert journal.non_finite == {"a": 3}
    journal.commit(journal.take())
    journal.close()
    again = Journal(tmp_path / "journal", "job")
    assert again.non_finite == {"a": 3}
    again.begin()
    assert again.non_finite == {}
    again.close()


def test_another_job(tmp_path: Path) -> None:
    """The owner is who began it, and nothing of it is used by a job that begins anew."""
    journal = begun(tmp_path / "journal", "first")
    journal.done("a", 0, 5)
    journal.commit(journal.take())
    journal.close()
    second = Journal(tmp_path / "journal", "second")
    assert second.owner == "first"
    second.begin()
    assert not second.resumes
    second.close()
    assert Journal(tmp_path / "journal", "x").owner == "second"


def test_one_owner(tmp_path: Path) -> None:
    """While one process has it, another is refused; afterwards it is free."""
    journal = begun(tmp_path / "journal")
    with pytest.raises(eutectic.OutputError, match="another run is writing there"):
        Journal(tmp_path / "journal", "job")
    journal.close()
    Journal(tmp_path / "journal", "job").close()


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_torn_tail(cut: int, tmp_path: Path) -> None:
    """Whatever is cut off the end, the lines before stay, and new ones follow them."""
    path = tmp_path / "journal"
    journal = begun(path)
    for number in range(20):
        journal.done("a", number, number + 1)
    journal.commit(journal.take())
    journal.close()
    os.truncate(path, path.stat().st_size - cut)
    torn = Journal(path, "job")
    left = sum(stop - start for start, stop in torn.missing("a", 20))
    assert 1 <= left <= 3
    torn.resume()
    torn.done("a", 19, 20)
    torn.commit(torn.take())
    torn.close()
    again = Journal(path, "job")
    assert sum(stop - start for start, stop in again.missing("a", 20)) == left - 1
    again.close()


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """No single flipped bit makes a journal say that more was done, or another result."""
    path = tmp_path / "journal"
    journal = begun(path)
    journal.done("a", 0, 5)
    journal.found("cut", (0.25,))
    journal.commit(journal.take())
    journal.close()
    good = path.read_bytes()
    for place in range(len(good)):
        for bit in range(8):
            path.write_bytes(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
            damaged = Journal(path, "job")
            assert damaged.owner in {None, "job"}
            assert list(damaged.missing("a", 10)) in ([(0, 10)], [(5, 10)])
            assert damaged.result("cut") in (None, (0.25,))
            damaged.close()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A link in the journal's place is an error of the system's, and its target stays."""
    (tmp_path / "target").write_text("precious")
    (tmp_path / "journal").symlink_to(tmp_path / "target")
    with pytest.raises(OSError):
        Journal(tmp_path / "journal", "job")
    assert (tmp_path / "target").read_text() == "precious"


def test_a_full_disk(tmp_path: Path) -> None:
    """What cannot be written is an OutputError that names the journal."""
    journal = begun(tmp_path / "journal")
    os.close(journal._file)
    journal._file = os.open("/dev/full", os.O_RDWR)
    journal.done("a", 0, 1)
    with pytest.raises(eutectic.OutputError, match=r"journal.*No space left.*resume"):
        journal.commit(journal.take())
    journal.close()
